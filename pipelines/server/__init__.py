"""A store behind a URL: REST, tools for agents (MCP), and the page to ask in.

It stands on FastAPI and not on hayhooks, which was looked at (2.1): its app lets whoever reaches it deploy Python code
(`/deploy_files`) and remove pipelines, allows every origin by default, has no tokens and no batches of several clients'
questions, and holds the `mcp` package below version 2; none of that can be turned off one by one. needle's definitions are
Haystack's YAML and can be deployed on a hayhooks server as they are.
"""

"""Agents: the MCP server by the real client, over stdio and HTTP; tools for Haystack's agents."""

import json
import os
import sys
from pathlib import Path

from haystack import component
from haystack.components.agents import Agent
from haystack.dataclasses import ChatMessage, ToolCall
from haystack.tools import Tool
from mcp import Client, StdioServerParameters

from needle.pipelines.tools import qa_tools

MOON = "When did people first land on the Moon?"


async def check(client: Client) -> None:
    """All that an agent can do."""
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == {"ask", "search", "get_document"}
    assert all(tool.description for tool in tools.values())
    assert tools["ask"].input_schema["required"] == ["query"]

    asked = await client.call_tool("ask", {"query": MOON, "top_k": 1})
    [answer] = asked.structured_content["answers"]
    assert answer["answer"] == "July 20, 1969"
    assert json.loads(asked.content[0].text)["answers"][0]["answer"] == "July 20, 1969"  # for clients without structure

    found = await client.call_tool("search", {"query": "moon landing", "top_k": 2})
    assert len(found.structured_content["passages"]) == 2

    place = answer["places"][0]
    part = {"document_id": place["document_id"], "start_char": place["start_char"], "chars": 13}
    document = await client.call_tool("get_document", part)
    assert document.structured_content["text"] == "July 20, 1969"

    for wrong in ({"query": " "}, {"query": MOON, "top_k": 0}, {}):
        assert (await client.call_tool("ask", wrong)).is_error
    for id_ in ("none", "../etc/passwd"):
        refused = await client.call_tool("get_document", {"document_id": id_})
        assert refused.is_error
        assert "Traceback" not in refused.content[0].text


async def test_over_http(server):
    async with Client(f"{server.url}/mcp") as client:
        await check(client)


async def test_over_standard_input_and_output(corpus_store):
    command = str(Path(sys.executable).with_name("needle"))
    environment = {"HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"]}
    server = StdioServerParameters(command=command, args=["mcp", "--store", str(corpus_store)], env=environment)
    async with Client(server) as client:
        await check(client)


def test_over_http_other_sites_get_nothing(server):
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    accept = {"Accept": "application/json, text/event-stream"}
    assert server.post("/mcp", json=call, headers=accept | {"Origin": "https://evil.example"}).status_code == 403
    assert server.post("/mcp", json=call, headers=accept | {"Host": "evil.example"}).status_code == 403


@component
class ScriptedModel:
    """In the place of a language model: it first calls both tools, then says that it is done."""

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage], tools: list[Tool] | None = None) -> dict[str, list[ChatMessage]]:
        if messages[-1].tool_call_results:
            return {"replies": [ChatMessage.from_assistant("Done.")]}
        calls = [ToolCall("ask", {"query": MOON, "top_k": 1}), ToolCall("search", {"query": "moon landing", "top_k": 1})]
        return {"replies": [ChatMessage.from_assistant(tool_calls=calls)]}


def test_as_tools_of_a_haystack_agent(corpus_qa):
    tools = qa_tools(corpus_qa)
    assert [tool.name for tool in tools] == ["ask", "search"]
    assert tools[0].parameters["required"] == ["query"]
    messages = Agent(chat_generator=ScriptedModel(), tools=tools).run([ChatMessage.from_user(MOON)])["messages"]
    told = " ".join(result.result for message in messages for result in message.tool_call_results)
    assert "July 20, 1969" in told
    assert "is_answered" in told
    assert "passages" in told
    assert messages[-1].text == "Done."

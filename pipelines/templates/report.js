"use strict";

// The table of wrong answers: filtered, searched, a page at a time. Texts of documents only ever become text nodes.
{
  const PAGE = 50;
  const PASSAGE_OF = {
    "gold": "Passage with the right answer",
    "predicted": "Passage of the best text found",
    "gold,predicted": "Passage with the right answer and the best text found",
  };
  const byId = (id) => document.getElementById(id);
  const rows = JSON.parse(byId("rows").textContent);
  const differs = byId("differs"); // there is none without a compared evaluation
  let found = [];
  let page = 0;

  function element(tag, className, ...children) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    made.append(...children);
    return made;
  }

  // What is searched, in lower case; made once a row, when it is first searched.
  function searched(row) {
    row.searched ??= [
      row.id, row.question, row.given, row.best, ...row.right,
      ...row.passages.flatMap(({ source, parts }) => [source, parts.map(([, text]) => text).join("")]),
    ].join("\n").toLowerCase();
    return row.searched;
  }

  function filter() {
    const cause = document.querySelector("input[name=cause]:checked").value;
    const words = byId("search").value.trim().toLowerCase();
    found = rows.filter((row) =>
      (cause ? row.cause === cause : row.cause !== "fixed")
      && (!differs?.checked || row.other?.differs)
      && (!words || searched(row).includes(words)));
    page = 0;
    show();
  }

  function show() {
    const first = page * PAGE;
    const shown = found.slice(first, first + PAGE);
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    byId("body").replaceChildren(...shown.map(tableRow));
    byId("table").hidden = shown.length === 0;
    const [from, to, of] = [first + 1, first + shown.length, found.length].map((n) => n.toLocaleString("en"));
    byId("status").textContent = shown.length ? `${from} to ${to} of ${of}` : "No such answers.";
    byId("page").textContent = `Page ${page + 1} of ${pages}`;
    byId("pager").hidden = pages === 1;
    // Not `disabled`: a button that loses the focus would throw a keyboard's user back to the top.
    byId("previous").setAttribute("aria-disabled", page === 0);
    byId("next").setAttribute("aria-disabled", page === pages - 1);
  }

  function turn(by) {
    if (page + by < 0 || (page + by) * PAGE >= found.length) return;
    page += by;
    show();
    byId("status").scrollIntoView();
  }

  function tableRow(row) {
    const made = element("tr", "", question(row), answers(row), cell("td", "cell", ...row.passages.map(passage)));
    made.setAttribute("role", "row");
    return made;
  }

  function cell(tag, role, ...children) {
    const made = element(tag, "", ...children);
    made.setAttribute("role", role);
    return made;
  }

  function question(row) {
    const cause = row.cause === "fixed" ? "only compared is wrong" : row.cause;
    const made = cell("th", "rowheader", element("div", "question", row.question), outcome(cause));
    made.scope = "row";
    made.append(element("small", "id", row.id));
    return made;
  }

  function answers(row) {
    const list = element("dl", "");
    const add = (name, ...values) => list.append(element("dt", "", name), ...values.map((value) => element("dd", "", value)));
    add("right", ...(row.right.length ? row.right : [none("no answer")]));
    add("given", row.given || none("no answer"));
    if (row.best && row.best !== row.given) add("best text", row.best);
    if (row.best) add("score", row.score.toFixed(3));
    add("F1", `${row.f1} %`);
    if (row.right.length) add("passage", row.rank === null ? "none with the answer was read" : `with the answer: rank ${row.rank}`);
    if (row.other) add("compared", row.other.given || none("no answer"), outcome(row.other.cause));
    return cell("td", "cell", list);
  }

  function outcome(text) {
    return element("span", text === "right" ? "outcome right" : "outcome", text);
  }

  function none(text) {
    return element("i", "", text);
  }

  function passage({ of, source, parts }) {
    const heading = element("small", "", PASSAGE_OF[of], ": ", element("cite", "", source));
    const text = element("p", "passage", ...parts.map(([kind, part]) => {
      if (kind === "gap") return element("span", "gap", " … ");
      return kind ? element("mark", kind, part) : part;
    }));
    return element("div", "", heading, text);
  }

  byId("filters").addEventListener("input", filter);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  byId("filters").reset(); // what a browser keeps of a form when it loads a page again
  byId("browser").hidden = false;
  filter();
}

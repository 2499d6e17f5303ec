// The page of `needle serve`. It talks to the server that it came from, and to nobody else.
//
// What documents, their names and the server say is only ever set as text, never as HTML; and the server's
// Content-Security-Policy would stop a script that got past that. Where the page is (the question, the document that is
// open and the place in it) stands in its address, so that it can be shared and the back button works: a link or `go`
// changes the address, and `route` shows what it says.

const PART = 20_000; // characters of a document that are shown at a time
const LISTED = 200; // documents that are listed at a time
const UNLIKELY = 0.05; // answers less probable than that are folded away
const SENDERS = 3; // files that are sent at a time
const ATTEMPTS = 6; // to reach a busy server

const $ = (id) => document.getElementById(id);
const sleep = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));
const copy = (template) => $(template).content.firstElementChild.cloneNode(true);
const count = (n, thing) => `${n.toLocaleString("en")} ${thing}${n === 1 ? "" : "s"}`;
const fileName = (path) => path.split(/[/\\]/).pop();
const told = (tell, work) => work().catch((error) => tell(error.message)); // work, and what goes wrong in it

function percent(score) {
  const whole = Math.min(99, Math.max(1, Math.round(100 * score))); // nothing is certain: neither 0 % nor 100 %
  return `${score < 0.005 ? "<\u202f" : score >= 0.995 ? ">\u202f" : ""}${whole}\u202f%`;
}

/** Text with what is between two offsets marked. They count code points; JavaScript's strings are of UTF-16 units. */
function marked(text, start, end) {
  const points = Array.from(text);
  const mark = document.createElement("mark");
  mark.textContent = points.slice(start, end).join("");
  return [points.slice(0, start).join(""), mark, points.slice(end).join("")];
}

// ---- The server ---------------------------------------------------------------------------------------------------

let token = sessionStorage.getItem("token");
let server = { auth: false, scopes: [], limits: {}, file_types: [] };
let tokenWanted = null; // while the dialog is open: the promise of a token that works

/** One request, by XMLHttpRequest because fetch can't tell how much of an upload is sent. */
function send(method, path, body, { signal, progress, bearer = token } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, path);
    request.responseType = "json"; // null for what is none, from a proxy, say
    if (bearer) request.setRequestHeader("Authorization", `Bearer ${bearer}`);
    if (body && !(body instanceof FormData)) {
      request.setRequestHeader("Content-Type", "application/json");
      body = JSON.stringify(body);
    }
    request.upload.onprogress = progress ? (event) => progress(event.loaded / event.total) : null;
    request.onload = () => resolve(request);
    request.onerror = () => reject(new Error("The server can’t be reached. Is it still running?"));
    request.onabort = () => reject(new DOMException("", "AbortError"));
    signal?.addEventListener("abort", () => request.abort());
    if (signal?.aborted) request.onabort();
    else request.send(body ?? null);
  });
}

/** What the server answers. Asks for a token where one is wanted, and comes again where the server is busy. */
async function call(method, path, body, { tell = say, ...options } = {}) {
  for (let attempt = 1; ; attempt++) {
    const used = token;
    const response = await send(method, path, body, options);
    if (response.status === 204) return null;
    if (response.status < 300 && response.response) return response.response;
    const trouble = { 429: "busy", 503: "not ready" }[response.status];
    if (trouble && attempt < ATTEMPTS) {
      const seconds = Number(response.getResponseHeader("Retry-After")) || 2;
      tell(`The server is ${trouble}; trying again in ${seconds}\u202fs …`);
      await sleep(seconds);
    } else if (response.status === 401) {
      if (used !== token) continue; // another request has asked for it meanwhile
      await wantToken(token ? "The server does not take the token that it was given." : undefined);
    } else throw new Error(response.response?.error?.message ?? `The server failed (${response.status}).`);
  }
}

/** Learn what the server is and what this token may do. */
async function learn() {
  server = await call("GET", "info");
  document.documentElement.classList.toggle("readonly", !server.scopes.includes("write"));
  $("to-token").hidden = !server.auth;
  $("to-token").textContent = server.auth && !server.scopes.includes("write") && token ? "Read only" : "Token";
  $("files").accept = server.file_types.join();
  $("kinds").textContent = `${server.file_types.map((type) => type.slice(1)).join(", ")}; ` +
    `up to ${Math.floor(server.limits.upload_bytes / 2 ** 20)}\u202fMB each`;
  if (server.auth && !server.scopes.length) await wantToken();
}

function wantToken(why = "This server answers those who have a token.") {
  tokenWanted ??= new Promise((resolve, reject) => {
    $("auth-why").textContent = why;
    $("auth-problem").textContent = $("token").value = "";
    $("auth").showModal();
    $("auth").onclose = () => {
      tokenWanted = null;
      if ($("auth").returnValue === "works") resolve(learn());
      else reject(new Error("Nothing can be asked without a token."));
    };
    $("auth").returnValue = "";
  });
  return tokenWanted;
}

$("auth").querySelector("form").onsubmit = async (event) => {
  event.preventDefault();
  const bearer = $("token").value.trim();
  try {
    // What no header can hold is no token.
    const status = /^[!-~]+$/.test(bearer) ? (await send("GET", "info", null, { bearer })).status : 401;
    if (status !== 200) throw new Error(status === 401 ? "The server does not know this token." : `It failed (${status}).`);
    sessionStorage.setItem("token", (token = bearer));
    $("auth").close("works");
  } catch (error) {
    $("auth-problem").textContent = error.message;
  }
};
$("auth").querySelector("[value=cancel]").onclick = () => $("auth").close();
$("to-token").onclick = () => wantToken("Use another token:").then(reload, () => {});

// ---- Questions and answers ----------------------------------------------------------------------------------------

let asked = ""; // the question whose answers are shown
let asking = new AbortController();

/** Say how it stands, on the page and to screen readers; to these also what is to be seen in the answers. */
function say(message, spoken = "") {
  $("status").textContent = message;
  $("spoken").textContent = spoken;
  $("problem").classList.remove("problem");
  $("again").hidden = true;
}

/** @param retry what to do when "Try again" is pressed; null: that would not help. */
function complain(message, retry) {
  say(message);
  $("problem").classList.add("problem");
  $("again").hidden = retry === null;
  $("again").onclick = retry;
}

async function ask(query) {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  asked = query;
  document.title = query ? `${query} – needle` : "needle";
  $("answers").replaceChildren();
  $("start").hidden = query !== "";
  document.body.classList.toggle("asked", query !== "");
  document.body.classList.toggle("asking", query !== "");
  say(query && "Asking …");
  if (!query) return;
  const began = performance.now();
  try {
    const result = await call("POST", "ask", { query }, { signal });
    if (signal.aborted) return;
    $("answers").replaceChildren(...shown(result));
    const [best] = result.answers;
    const found = result.is_answered ? `The best answer: ${best.answer}, ${percent(best.score)}.` : "There is no answer.";
    say(`Answered in ${((performance.now() - began) / 1000).toFixed(2)}\u202fs`, found);
  } catch (error) {
    if (!signal.aborted) complain(error.message, () => ask(query));
  } finally {
    if (!signal.aborted) document.body.classList.remove("asking");
  }
}

function shown(result) {
  const { answers, is_answered: isAnswered } = result;
  const likely = isAnswered ? answers.filter((answer, i) => i === 0 || answer.score >= UNLIKELY) : [];
  const unlikely = answers.slice(likely.length);
  const cards = isAnswered ? likely.map((answer) => answerCard(result, answer)) : [noAnswerCard(result)];
  cards[0].classList.add("best");
  if (unlikely.length) {
    const folded = copy("folded");
    folded.firstElementChild.textContent = isAnswered
      ? count(unlikely.length, "unlikely candidate")
      : `The nearest candidate: “${unlikely[0].answer}”, ${percent(unlikely[0].score)}`;
    folded.append(...unlikely.map((answer) => answerCard(result, answer)));
    cards.push(folded);
  }
  return cards;
}

function answerCard(result, answer) {
  const card = copy("card");
  head(card, answer.answer, answer.score);
  const passage = marked(answer.passage ?? "", answer.start_char ?? 0, answer.end_char ?? 0);
  card.querySelector(".why").remove();
  const context = marked(answer.context ?? "", answer.context_start_char ?? 0, answer.context_end_char ?? 0);
  const quoted = answer.context !== null; // a pipeline of one's own may tell less than needle's
  card.querySelector("blockquote").append(...(quoted ? context : passage));
  if (quoted && answer.passage !== null) card.querySelector(".whole p").append(...passage);
  else card.querySelector(".whole").remove();
  const [own, ...others] = answer.places;
  link(card.querySelector(".source"), own ?? { document_id: answer.document_id }, place(answer));
  const also = card.querySelector(".also");
  also.hidden = !others.length;
  also.open = others.length <= 3;
  also.querySelector("summary").textContent = `Also said in ${count(others.length, "other place")}`;
  for (const other of others) {
    const item = also.querySelector("ul").appendChild(document.createElement("li"));
    const same = answer.places.filter((one) => place(one) === place(other)); // if more than one, they are numbered
    const number = same.length > 1 ? ` (${same.indexOf(other) + 1})` : "";
    link(item.appendChild(document.createElement("a")), other, place(other) + number);
  }
  const { passage_id, start_char, end_char, score } = answer;
  if (passage_id === null || start_char === null) card.querySelector(".feedback").remove();
  else feedback(card, { query: result.query, score, passage_id, start_char, end_char }, answer.answer);
  return card;
}

function noAnswerCard({ query, no_answer_score: score, answers }) {
  const card = copy("card");
  card.classList.add("none");
  head(card, "The documents hold no answer", score);
  card.querySelector(".why").textContent = answers.length
    ? "None of the passages nearest to the question answers it."
    : "No passage is near to the question.";
  for (const part of ["blockquote", ".source", ".also", ".whole"]) card.querySelector(part).remove();
  feedback(card, { query, score: score ?? 1, passage_id: answers[0]?.passage_id ?? null }, null);
  return card;
}

function head(card, words, score) {
  card.querySelector("h2").textContent = words;
  card.querySelector(".sure").hidden = score === null;
  card.querySelector(".sure span").textContent = score === null ? "" : percent(score);
  card.querySelector("meter").value = score ?? 0;
}

/** What a place is called: its file, the title if that tells more, the page if there are pages. */
function place({ file_path: path, title, page_number: page, document_id: id }) {
  const name = path === null ? (title ?? id ?? "A document without a name") : fileName(path);
  const telling = title && path !== null && !name.startsWith(title) ? ` · ${title}` : "";
  return `${name}${telling}${page > 1 || (page && name.endsWith(".pdf")) ? ` · page ${page}` : ""}`;
}

function link(anchor, { document_id: doc, start_char: start, end_char: end }, words) {
  anchor.textContent = words;
  if (doc) anchor.href = address({ doc, start, end, show: null });
}

function feedback(card, given, answer) {
  const [thanks, form, buttons] = [".thanks", "form", ".feedback"].map((part) => card.querySelector(part));
  const tell = (words) => (thanks.textContent = words);
  const give = (verdict, correction = null) => told(tell, async () => {
    await call("POST", "feedback", { ...given, verdict, correction }, { tell });
    for (const button of buttons.children) button.ariaPressed = String(verdict.startsWith(button.value));
    form.hidden = verdict === "right" || correction !== null;
    tell("Thank you, that is kept.");
  });
  for (const button of buttons.children) button.onclick = () => give(button.value);
  form.onsubmit = (event) => {
    event.preventDefault();
    const right = form.querySelector("input").value.trim();
    // More or less of the same words: the place was right, its ends were not.
    const overlaps = answer !== null && right !== answer && (answer.includes(right) || right.includes(answer));
    if (right) give(overlaps ? "wrong span" : "wrong", right);
  };
}

// ---- The document that is open ------------------------------------------------------------------------------------

let opened = {}; // its id, and the part of it that is shown

async function openDocument(doc, start, end) {
  const from = Math.max(0, start - PART / 2);
  opened = { doc, from, to: from };
  $("text").replaceChildren();
  $("viewer-name").textContent = "Document";
  $("viewer-path").textContent = "";
  $("earlier").hidden = $("later").hidden = true;
  openPane("viewer");
  await read(from, from + PART, (part) => {
    $("viewer-name").textContent = place({ ...part, page_number: null });
    $("viewer-path").textContent = part.file_path ?? "";
    $("text").append(...(end > start ? marked(part.text, start - from, end - from) : [part.text]));
    const mark = $("text").querySelector("mark") ?? $("viewer-name");
    mark.tabIndex = -1; // screen readers go on from what has the focus
    mark.focus({ preventScroll: true });
    mark.scrollIntoView({ block: "center" });
  });
}

/** Read a part of the document that is open, and put it where it belongs. */
function read(from, to, put) {
  const mine = opened;
  const tell = (words) => mine === opened && ($("viewer-status").textContent = words);
  tell("Opening …");
  return told(tell, async () => {
    const path = `documents/${encodeURIComponent(mine.doc)}?start_char=${from}&end_char=${to}`;
    const part = await call("GET", path, null, { tell });
    if (mine !== opened) return; // another one was opened meanwhile
    mine.from = Math.min(mine.from, from);
    mine.to = Math.max(mine.to, Math.min(to, part.chars));
    $("earlier").hidden = mine.from === 0;
    $("later").hidden = mine.to >= part.chars;
    tell("");
    put(part);
  });
}

$("later").onclick = () => read(opened.to, opened.to + PART, (part) => $("text").append(part.text));
$("earlier").onclick = () => read(Math.max(0, opened.from - PART), opened.from, (part) => {
  const around = $("text").parentElement;
  const below = around.scrollHeight - around.scrollTop;
  $("text").prepend(part.text);
  around.scrollTop = around.scrollHeight - below; // what was being read stays where it is
});

// ---- The documents ------------------------------------------------------------------------------------------------

let listing = 0; // the latest listing; earlier ones that come later are dropped

function list(offset = 0) {
  const mine = ++listing;
  $("list").ariaBusy = "true";
  return told(news, async () => {
    const search = $("find").value.trim();
    const query = new URLSearchParams({ offset, limit: LISTED, ...(search && { search }) });
    const { total, documents } = await call("GET", `documents?${query}`, null, { tell: news });
    if (mine !== listing) return;
    if (!offset) $("list").replaceChildren();
    $("list").append(...documents.map(row));
    $("more").hidden = offset + documents.length >= total;
    $("more").onclick = () => list(offset + documents.length);
    if (search) return news(`${count(total, "document")} found`);
    $("to-documents").textContent = $("library-name").textContent = `Documents (${total.toLocaleString("en")})`;
    $("empty").hidden = total > 0;
  }).finally(() => mine === listing && ($("list").ariaBusy = "false"));
}

function row(found) {
  const item = copy("row");
  const name = place({ ...found, page_number: null });
  link(item.querySelector("a"), { ...found, start_char: null, end_char: null }, name);
  const folder = (found.file_path ?? "").slice(0, -fileName(found.file_path ?? "").length);
  item.querySelector("small").textContent = `${count(found.passages, "passage")}${folder && ` · ${folder}`}`;
  const button = item.querySelector("button");
  button.ariaLabel = `Delete ${name}`;
  button.onclick = () => told(news, async () => {
    if (!(await confirmed(`Delete ${name}?`))) return;
    await call("DELETE", `documents/${encodeURIComponent(found.document_id)}`, null, { tell: news });
    $("library-name").focus(); // its button goes
    await list();
    news(`${name} is deleted.`);
  });
  return item;
}

function news(words) {
  $("news").textContent = words;
}

function confirmed(what) {
  $("confirm-name").textContent = what;
  $("confirm").returnValue = "keep"; // also when it is left by Escape
  $("confirm").showModal();
  return new Promise((done) => ($("confirm").onclose = () => done($("confirm").returnValue === "delete")));
}

/** Send files, a request each so that each has its own progress, and tell when they are indexed. */
async function upload(files) {
  const waiting = Array.from(files, (file) => {
    const item = copy("upload");
    item.querySelector("span").textContent = file.name;
    $("uploads").prepend(item);
    return { file, item };
  });
  let [added, done] = [0, 0];
  const all = waiting.length;
  const sender = async () => {
    for (let next; (next = waiting.shift()); ) {
      if (await uploadOne(next.file, next.item)) added++;
      news(`${++done} of ${count(all, "file")} done, ${added} added.`);
    }
  };
  await Promise.all(Array.from({ length: SENDERS }, sender));
  await list();
}

/** @returns whether the file was added. */
async function uploadOne(file, item) {
  const bar = item.querySelector("progress");
  const tell = (words) => (item.querySelector("small").textContent = words);
  try {
    if (file.size + 1000 > server.limits.upload_bytes) throw new Error("Too large for this server.");
    const body = new FormData();
    body.append("files", file);
    const progress = (part) => {
      bar.value = part;
      tell(part < 1 ? `Sending, ${percent(part)}` : "Sent");
    };
    bar.ariaLabel = `Progress of ${file.name}`;
    let job = await call("POST", "uploads", body, { progress, tell });
    bar.removeAttribute("value"); // how long it takes to read it is not known
    tell("Being indexed …");
    while (job.state === "queued" || job.state === "running") {
      await sleep(0.4);
      job = await call("GET", `jobs/${job.job_id}`, null, { tell });
    }
    if (job.error !== null) throw new Error(job.error);
    if (job.skipped.length) throw new Error(`Not added: ${job.skipped[0].reason}`);
    tell(job.unchanged.length ? "Unchanged, it was there already" : `Added, ${count(job.passages, "passage")}`);
    item.className = "good";
    return job.indexed.length > 0;
  } catch (error) {
    tell(error.message);
    item.className = "problem";
    return false;
  } finally {
    bar.remove();
  }
}

$("files").onchange = () => upload($("files").files).then(() => ($("files").value = ""));
let typing;
$("find").oninput = () => {
  clearTimeout(typing);
  typing = setTimeout(list, 200);
};

// Files can be dropped anywhere; the browser's own answer would be to leave the page and show the file.
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.toggle("dropping", kind === "dragover");
    if (kind !== "drop") return;
    go({ show: "documents", doc: null, start: null, end: null });
    if (server.scopes.includes("write")) upload(event.dataTransfer.files);
  });
}

// ---- Where the page is --------------------------------------------------------------------------------------------

/** The page's address with some of its parts changed; null takes one away. */
function address(parts) {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(parts)) {
    if (value === null || value === undefined || value === "") query.delete(name);
    else query.set(name, value);
  }
  return `${location.pathname}${query.size ? "?" : ""}${query}`;
}

function go(to) {
  history.pushState(null, "", typeof to === "string" ? to : address(to));
  route();
}

function route() {
  const query = new URLSearchParams(location.search);
  const [q, doc] = [query.get("q")?.trim() ?? "", query.get("doc")];
  if (q !== asked) {
    $("question").value = q;
    ask(q);
  }
  const listed = query.get("show") === "documents";
  $("to-documents").href = address({ doc: null, start: null, end: null, show: listed ? null : "documents" });
  $("to-documents").ariaExpanded = String(listed && !doc);
  const [start, end] = ["start", "end"].map((name) => Math.max(0, Number(query.get(name)) || 0));
  if (doc) openDocument(doc, start, end);
  else if (listed) {
    openPane("library");
    list();
  } else openPane(null);
}

/** Beside the answers where there is room, else over them. */
function openPane(id) {
  for (const pane of document.querySelectorAll(".pane")) {
    if (pane.id !== id) pane.close();
    else if (!pane.open && matchMedia("(min-width: 64rem)").matches) pane.show();
    else if (!pane.open) pane.showModal();
  }
}

function reload() {
  asked = "";
  route();
  if (!$("library").open) list(); // for how many there are
}

const leave = () => go({ doc: null, start: null, end: null, show: null });
for (const pane of document.querySelectorAll(".pane")) {
  pane.querySelector("[data-close]").onclick = leave;
  pane.oncancel = (event) => {
    if (event.target !== pane) return; // no file was chosen
    event.preventDefault(); // the address tells what is open
    leave();
  };
}
addEventListener("keydown", (event) => {
  if (document.querySelector(":modal")) return; // which has its own
  if (event.key === "Escape" && document.querySelector(".pane[open]")) leave();
  if (event.key === "/" && !event.target.closest("input, textarea")) {
    event.preventDefault();
    $("question").select();
  }
});
addEventListener("click", (event) => {
  const anchor = event.target.closest("a[href]");
  if (!anchor || anchor.pathname !== location.pathname) return;
  if (event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return; // a new tab's or window's
  event.preventDefault();
  go(anchor.href);
});
addEventListener("popstate", route);

$("question").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault(); // it asks, as in a field of one line; this one grows where a question is long
  $("ask").requestSubmit();
};
$("ask").onsubmit = (event) => {
  event.preventDefault();
  const q = $("question").value.replace(/\s+/g, " ").trim();
  const [length, most] = [Array.from(q).length, server.limits.question_chars];
  $("question").ariaInvalid = String(length > most);
  const tooLong = `The question is too long: ${count(length, "character")} of ${most.toLocaleString("en")}.`;
  if (length > most) complain(tooLong, null);
  else if (q === asked) ask(q); // once more
  else go({ q, doc: null, start: null, end: null, show: null });
};

learn().then(reload, (error) => complain(error.message, () => location.reload()));

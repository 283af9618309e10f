"use strict";
// The responses. `data` holds columns of equal length; `rows` are the indices that pass the filters, in the chosen order.

const PAGE = 200;
const KEPT_CHUNKS = 24;  // unpacked texts in memory, about 1.5 million characters each
const BOX = 1, CODE = 2, REFLECT = 4;  // bits of data.shows, as in analysis/report_responses.py
const LOGPROB_STEPS = 50, GAP_STEPS = 1000;  // as in analysis/report_tokens.py
const FILTERS = ["f-run", "f-kind", "f-step", "f-verdict", "f-end", "f-shows", "f-text", "f-sort"];
const chunks = new Map();  // number -> promise of its rows, the latest used last
let data = null, rows = [], first = 0, at = 0, problem = null, found = null, searching = 0;

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// Returns the promise of a chunk's rows, and forgets the chunk that was not used for longest.
function chunkAt(number) {
  const held = chunks.get(number) ?? inflate(byId("chunk-" + number).textContent);
  chunks.delete(number);
  chunks.set(number, held);
  if (chunks.size > KEPT_CHUNKS) chunks.delete(chunks.keys().next().value);
  return held;
}

// Returns {text, pieces, ...} of a response, or null if the page holds only its end.
async function textOf(i) {
  return data.chunk[i] < 0 ? null : (await chunkAt(data.chunk[i]))[data.place[i]];
}

// Filters, search and order

function fill(id, all, values, name) {
  byId(id).replaceChildren(option("", all), ...values.map((value) => option(String(value), name(value))));
}

function fillSteps() {
  const run = byId("f-run").value, kind = byId("f-kind").value;
  const steps = new Set();
  for (let i = 0; i < data.step.length; i++) if ((run === "" || data.run[i] == run) && (kind === "" || data.kind[i] == kind)) steps.add(data.step[i]);
  const before = byId("f-step").value;
  fill("f-step", "all", [...steps].sort((a, b) => a - b), String);
  if (steps.has(Number(before))) byId("f-step").value = before;
}

function passes() {
  const value = (id) => byId(id).value;
  const equal = [["f-run", data.run], ["f-kind", data.kind], ["f-step", data.step], ["f-verdict", data.correct], ["f-end", data.truncated]].filter(([id]) => value(id) !== "").map(([id, column]) => [column, Number(value(id))]);
  const shows = Number(value("f-shows"));
  return (i) => equal.every(([column, wanted]) => column[i] === wanted) &&
    (shows === 0 || (shows > 0 ? (data.shows[i] & shows) !== 0 : (data.shows[i] & -shows) === 0)) &&
    (problem === null || data.keys[data.problem[i]] === problem) && (found === null || found[i] === 1);
}

function sorted(places) {
  const key = byId("f-sort").value;
  if (key === "") return places;
  const sign = byId("f-descending").checked ? -1 : 1, column = key === "problem" ? data.problem.map((one) => data.problems.id[one]) : data[key];
  return places.sort((a, b) => {
    const [x, y] = [column[a], column[b]];
    if (x === y) return a - b;
    if (x === null) return 1;
    if (y === null) return -1;
    return sign * (key === "problem" ? x.localeCompare(y, "en", { numeric: true }) : x - y);
  });
}

function filter(keep) {
  const pass = passes();
  const passed = [];
  for (let i = 0; i < data.step.length; i++) if (pass(i)) passed.push(i);
  rows = sorted(passed);
  first = 0;
  let correct = 0, length = 0;
  for (const i of rows) { correct += data.correct[i]; length += data.length[i]; }
  byId("count").textContent = rows.length.toLocaleString("en") + " of " + data.step.length.toLocaleString("en") + " responses" +
    (rows.length ? ", " + (100 * correct / rows.length).toFixed(1) + " % correct, mean length " + Math.round(length / rows.length) + " tokens" : "");
  byId("f-problem").hidden = problem === null;
  if (problem !== null) byId("f-problem").textContent = "only " + problem.split("\n")[1] + " ✕";
  list();
  return select(Math.max(keep === undefined ? 0 : rows.indexOf(keep), 0), keep !== undefined);
}

// Marks in `found` the responses whose question, id or text contains the words. Texts are read chunk by chunk. A
// newer search ends this one.
async function search() {
  const words = byId("f-text").value.toLowerCase(), mine = ++searching;
  if (words === "") { found = null; return filter(); }
  const marks = new Uint8Array(data.step.length);
  const inProblem = data.problems.question.map((text, i) => (data.problems.id[i] + "\n" + text).toLowerCase().includes(words));
  for (let i = 0; i < marks.length; i++) if (inProblem[data.problem[i]] || (data.chunk[i] < 0 && data.ending[i].toLowerCase().includes(words))) marks[i] = 1;
  for (let number = 0; number < data.members.length; number++) {
    const texts = await chunkAt(number);
    if (mine !== searching) return undefined;
    for (const i of data.members[number]) if (!marks[i] && texts[data.place[i]].text.toLowerCase().includes(words)) marks[i] = 1;
  }
  found = marks;
  return filter();
}

function clearFilters() {
  problem = null;
  found = null;
  searching++;
  FILTERS.forEach((id) => { byId(id).value = ""; });
  byId("f-descending").checked = false;
}

// List

function verdictOf(i) { return data.correct[i] ? "correct" : "incorrect"; }
function title(i) { return (data.runs.length > 1 ? data.runs[data.run[i]] + " · " : "") + data.kinds[data.kind[i]] + " · step " + data.step[i] + " · sample " + data.sample[i]; }

function list() {
  const made = rows.slice(first, first + PAGE).map((i, place) => {
    const row = element("div", undefined, "row");
    row.id = "row-" + (first + place);
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", "false");
    const head = element("div", undefined, "head");
    head.append(element("span", verdictOf(i), verdictOf(i)), " " + (data.truncated[i] ? "truncated, " : "") + data.length[i] + " tokens · step " + data.step[i] + " · " + data.kinds[data.kind[i]] + (data.runs.length > 1 ? " · " + data.runs[data.run[i]] : ""));
    row.append(head, element("div", data.problems.question[data.problem[i]].slice(0, 120)), element("div", data.ending[i]));
    row.addEventListener("click", () => select(first + place, true));
    return row;
  });
  byId("list").replaceChildren(...made);
  byId("page").textContent = rows.length ? (first + 1).toLocaleString("en") + " to " + Math.min(first + PAGE, rows.length).toLocaleString("en") : "none";
  byId("back").disabled = first === 0;
  byId("more").disabled = first + PAGE >= rows.length;
}

async function select(place, link) {
  if (place < 0 || (place >= rows.length && rows.length)) return;
  if (rows.length && (place < first || place >= first + PAGE)) { first = Math.floor(place / PAGE) * PAGE; list(); }
  byId("row-" + at)?.setAttribute("aria-selected", "false");
  at = place;
  const row = byId("row-" + at);
  if (!row) { byId("list").removeAttribute("aria-activedescendant"); byId("left").replaceChildren(element("p", "No response passes these filters.")); byId("right").hidden = true; byId("other").replaceChildren(); return; }
  row.setAttribute("aria-selected", "true");
  byId("list").setAttribute("aria-activedescendant", row.id);
  const box = byId("list"), top = row.offsetTop - box.offsetTop;  // not scrollIntoView, which would scroll the page as well
  if (top < box.scrollTop) box.scrollTop = top;
  else if (top + row.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = top + row.offsetHeight - box.clientHeight;
  if (link) history.replaceState(null, "", keyOf(rows[at]));
  others(rows[at]);
  await show(byId("left"), rows[at]);
}

// Permanent links

function keyOf(i) {
  return "#response=" + [data.ids[data.run[i]], data.kinds[data.kind[i]], data.step[i], data.problems.id[data.problem[i]], data.sample[i]].map((one) => encodeURIComponent(String(one)).replace(/[!'()*]/g, (char) => "%" + char.charCodeAt(0).toString(16).toUpperCase())).join("/");
}

async function follow() {
  if (!location.hash.startsWith("#response=")) return;
  const wanted = location.hash.slice("#response=".length).split("/").map(decodeURIComponent);
  const is = (i) => data.ids[data.run[i]] === wanted[0] && data.kinds[data.kind[i]] === wanted[1] && String(data.step[i]) === wanted[2] && data.problems.id[data.problem[i]] === wanted[3] && String(data.sample[i]) === wanted[4];
  const i = data.step.findIndex((_, place) => is(place));
  if (i < 0) { byId("count").textContent = "The response of this link is not in this page."; return; }
  clearFilters();
  fillSteps();
  await filter(i);
  byId("browser").scrollIntoView();
}

// A response with highlighted boxes, code, reflection words and search matches, or with the colours of its tokens

function braces(text, from) {
  let depth = 0;
  for (let i = from; i < text.length; i++) {
    if (text[i] === "{") depth++;
    else if (text[i] === "}" && --depth === 0) return i + 1;
  }
  return text.length;
}

function spans(text, words) {
  const made = [];
  const all = (pattern, kind, end) => { for (const one of text.matchAll(pattern)) made.push([one.index, end ? end(one) : one.index + one[0].length, kind]); };
  all(/```[\s\S]*?(?:```|$)/g, "code");
  all(/^[ \t]*(?:def \w+\(|print\(|from [\w.]+ import |import \w[\w.]*(?: as \w+)?[ \t]*$).*$/gm, "code");
  all(/\\(?:boxed|fbox)\b/g, "box", (one) => text[one.index + one[0].length] === "{" ? braces(text, one.index + one[0].length) : one.index + one[0].length);
  all(new RegExp("\\b(?:" + data.reflection.join("|").replaceAll(" ", "\\s+") + ")\\b", "gi"), "reflect");
  if (words) {
    const low = text.toLowerCase();
    for (let i = low.indexOf(words); i >= 0; i = low.indexOf(words, i + words.length)) made.push([i, i + words.length, "match"]);
  }
  return made;
}

function highlighted(text, words) {
  const made = element("pre"), order = ["match", "box", "reflect", "code"], open = { match: 0, box: 0, reflect: 0, code: 0 };
  made.tabIndex = 0;
  const edges = spans(text, words).flatMap(([a, b, kind]) => [[a, kind, 1], [b, kind, -1]]).sort((a, b) => a[0] - b[0]);
  let from = 0;
  for (const [to, kind, by] of [...edges, [text.length, "code", 0]]) {
    const shows = order.find((one) => open[one] > 0);
    if (to > from) made.append(shows ? element("mark", text.slice(from, to), "m-" + shows) : text.slice(from, to));
    from = Math.max(from, to);
    open[kind] += by;
  }
  return made;
}

// Tokens coloured by -log p under the sampler, or by the difference of trainer and sampler.
function coloured(held, how) {
  const made = element("pre"), whole = held.text + held.after, values = held[how];
  made.tabIndex = 0;
  let from = 0;
  held.pieces.forEach((length, i) => {
    const token = element("span", whole.slice(from, from + length), "token"), value = values[i] / (how === "gaps" ? GAP_STEPS : LOGPROB_STEPS);
    const part = how === "gaps" ? Math.min(Math.abs(value) / 0.1, 1) : Math.min(value / 4, 1);
    const hue = how === "gaps" && value < 0 ? "204 102 0" : "0 114 178";
    if (part > 0.01) token.style.background = `rgb(${hue} / ${(0.08 + 0.5 * part).toFixed(2)})`;
    token.title = how === "gaps" ? `trainer − sampler ${value.toFixed(3)} nats` : `log p −${value.toFixed(2)}, p ${Math.exp(-value).toPrecision(2)}`;
    made.append(token);
    from += length;
  });
  return made;
}

async function show(view, i) {
  const held = await textOf(i);
  if (view.id === "left" && rows[at] !== i) return;
  const which = data.problem[i], facts = element("dl");
  const fact = (name, text, kind) => { const value = element("dd"); value.append(kind ? element("span", text, kind) : text); facts.append(element("dt", name), value); };
  fact("verdict", verdictOf(i), verdictOf(i));
  facts.lastChild.append(" (" + data.statuses[data.status[i]] + ")");
  fact("extracted", data.extracted[i] ?? "nothing");
  fact("gold", data.problems.gold[which]);
  fact("reward", String(data.reward[i]));
  for (const [name, value] of Object.entries(JSON.parse(data.partsets[data.parts[i]]))) fact("· " + name, String(value));
  fact("length", data.length[i] + " tokens, " + (data.truncated[i] ? "truncated at the limit" : "stopped"));
  if (data.surprise[i] !== null) fact("mean −log p", data.surprise[i].toFixed(3) + " nats per token, sampler");
  fact("problem", data.problems.id[which] + (data.problems.level[which] ? " (" + data.problems.level[which] + ")" : ""));
  const prompt = element("details"), rendered = element("pre", data.problems.prompt[which]);
  rendered.tabIndex = 0;
  prompt.append(element("summary", "prompt as the model received it"), rendered);
  const words = byId("f-text").value.toLowerCase(), how = byId("colour").value;
  const body = [element("h4", "response")];
  if (!held) body.push(element("p", "This page holds only the end of this response.", "hint"), highlighted("… " + data.ending[i], words));
  else if (how === "text") body.push(highlighted(held.text, words));
  else if (held[how]) body.push(coloured(held, how));
  else body.push(element("p", how === "gaps" && held.logprobs ? "Log-probs of the trainer are not saved: run.trainer_logprobs=true saves them." : "This page holds no log-probs of this response.", "hint"), highlighted(held.text, words));
  view.replaceChildren(element("h3", title(i)), facts, element("h4", "question"), highlighted(data.problems.question[which], words), ...body, prompt);
}

function others(i) {
  const same = data.byKey.get(data.keys[data.problem[i]]).filter((other) => other !== i);
  const before = byId("other").value;
  byId("other").replaceChildren(...same.slice(0, 500).map((other) => option(String(other), title(other) + " · " + verdictOf(other))));
  if (same.map(String).includes(before)) byId("other").value = before;
  byId("both").disabled = same.length === 0;
  beside();
}

function beside() {
  const other = byId("other").value;
  const on = byId("both").checked && other !== "";
  byId("right").hidden = !on;
  byId("other").disabled = !byId("both").checked;
  if (on) show(byId("right"), Number(other));
}

// Keyboard and events

function keys(event) {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox";
  if (event.key === "Escape") { clearFilters(); fillSteps(); filter(); return; }
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const inList = event.target === byId("list");
  const moves = { j: 1, k: -1, ...(inList ? { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 } : {}) };
  if (event.key in moves) select(Math.min(Math.max(at + moves[event.key], 0), Math.max(rows.length - 1, 0)), true);
  else if (inList && event.key === "Home") select(0, true);
  else if (inList && event.key === "End") select(rows.length - 1, true);
  else if (event.key === "/") byId("f-text").focus();
  else if (event.key === "s" && !byId("both").disabled) { byId("both").checked = !byId("both").checked; beside(); }
  else return;
  event.preventDefault();
}

async function copyLink() {
  if (!rows.length) return;
  history.replaceState(null, "", keyOf(rows[at]));
  try { await navigator.clipboard.writeText(location.href); say("Link copied"); byId("link").textContent = "copied"; } catch { byId("link").textContent = "link is in the address bar"; }
  setTimeout(() => { byId("link").textContent = "copy link"; }, 2000);
}

// Shows the responses to a problem of the heat map.
window.showProblem = ({ kind, id }) => {
  clearFilters();
  problem = data.problems.id.map((one, i) => data.keys[i]).find((key) => key === data.kinds.indexOf(kind) + "\n" + id) ?? null;
  filter();
  byId("browser").scrollIntoView();
};

function listen() {
  ["f-verdict", "f-end", "f-shows", "f-step", "f-sort", "f-descending"].forEach((id) => byId(id).addEventListener("change", () => filter()));
  ["f-run", "f-kind"].forEach((id) => byId(id).addEventListener("change", () => { fillSteps(); filter(); }));
  let waiting = 0;
  byId("f-text").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(search, 120); });
  byId("f-text").addEventListener("focus", () => data.members.slice(0, KEPT_CHUNKS).forEach((_, number) => chunkAt(number)), { once: true });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("f-problem").addEventListener("click", () => { problem = null; filter(); });
  byId("only").addEventListener("click", () => { if (rows.length) { const now = rows[at]; problem = data.keys[data.problem[now]]; filter(now); } });
  byId("both").addEventListener("change", beside);
  byId("other").addEventListener("change", beside);
  byId("colour").addEventListener("change", () => { if (rows.length) { show(byId("left"), rows[at]); beside(); } });
  byId("link").addEventListener("click", copyLink);
  byId("back").addEventListener("click", () => select(first - PAGE, true));
  byId("more").addEventListener("click", () => select(first + PAGE, true));
  window.addEventListener("hashchange", follow);
  document.addEventListener("keydown", keys);
}

async function browse() {
  const packed = byId("rollout-data").textContent;
  if (!packed) { document.querySelectorAll("[data-part='rollout']").forEach((one) => { one.hidden = true; }); return; }
  data = await inflate(packed);
  data.keys = data.problems.id.map((id, i) => data.problems.kind[i] + "\n" + id);  // problems with different prompts share a key
  data.byKey = new Map();
  data.members = [];
  data.problem.forEach((which, i) => {
    const key = data.keys[which];
    if (!data.byKey.has(key)) data.byKey.set(key, []);
    data.byKey.get(key).push(i);
    if (data.chunk[i] >= 0) (data.members[data.chunk[i]] ??= []).push(i);
  });
  fill("f-run", "all", data.runs.map((_, i) => i), (i) => data.runs[i]);
  byId("f-run").parentElement.hidden = data.runs.length < 2;
  fill("f-kind", "everywhere", data.kinds.map((_, i) => i), (i) => data.kinds[i]);
  fillSteps();
  listen();
  await filter();
  await follow();
}

setTheme(system.matches);
browse().catch((error) => { byId("count").textContent = "The responses cannot be shown: " + error.message; throw error; });

"use strict";
// Model output is inserted through textContent and text nodes only, never as HTML.
const byId = (id) => document.getElementById(id);
const element = (tag, text, kind) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
};
const option = (value, text) => { const made = element("option", text); made.value = value; return made; };

// Light and dark

const root = document.documentElement;
const system = window.matchMedia("(prefers-color-scheme: dark)");
const setTheme = (dark) => { root.dataset.theme = dark ? "dark" : "light"; drawAll(); };
system.addEventListener("change", (event) => setTheme(event.matches));
byId("theme").addEventListener("click", () => setTheme(root.dataset.theme !== "dark"));

// Curves

const curves = JSON.parse(byId("curve-data").textContent);
const hidden = new Set();
let shown = curves.shown.slice();

function traces(metric) {
  const found = [];
  const each = byId("each-run").checked;
  curves.arms.forEach((arm, index) => {
    const band = metric.bands[index];
    if (!band || hidden.has(index)) return;
    const colour = root.dataset.theme === "dark" && arm.colour === "#000000" ? "#ffffff" : arm.colour;
    const line = { color: colour, width: 2, dash: arm.dash };
    if (each) {
      band.runs.forEach((run) => found.push({ x: run.x, y: run.y, name: run.name, line: { ...line, width: 1 }, mode: "lines", type: "scatter" }));
      return;
    }
    if (band.seeds > 1) {
      const edge = { mode: "lines", type: "scatter", line: { width: 0 }, hoverinfo: "skip", x: band.x };
      found.push({ ...edge, y: band.low }, { ...edge, y: band.high, fill: "tonexty", fillcolor: colour + "33" });
    }
    found.push({ x: band.x, y: band.mean, name: arm.label, line, mode: band.x.length > 25 ? "lines" : "lines+markers", type: "scatter" });
  });
  return found;
}

function draw(name) {
  const metric = curves.metrics[name];
  const style = getComputedStyle(root);
  const line = style.getPropertyValue("--line").trim();
  const layout = {
    title: { text: metric.label, font: { size: 13 }, x: 0.02 }, margin: { l: 48, r: 12, t: 34, b: 34 }, height: 260, showlegend: false,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: style.getPropertyValue("--fg").trim(), size: 11 },
    xaxis: { title: { text: "step", standoff: 2 }, gridcolor: line, zeroline: false }, yaxis: { gridcolor: line, zeroline: false }, hovermode: "x unified",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: style.getPropertyValue("--line").trim(), activecolor: style.getPropertyValue("--accent").trim() },
    hoverlabel: { bgcolor: style.getPropertyValue("--panel").trim(), font: { color: style.getPropertyValue("--fg").trim() } },
  };
  let place = byId("plot-" + curves.names.indexOf(name));
  if (!place) {
    place = element("div", undefined, "plot");
    place.id = "plot-" + curves.names.indexOf(name);
    byId("plots").append(place);
  }
  Plotly.react(place, traces(metric), layout, { responsive: true, displaylogo: false, displayModeBar: window.innerWidth > 800 ? "hover" : false, modeBarButtonsToRemove: ["select2d", "lasso2d"] });
}
function drawAll() { shown.forEach(draw); }

curves.arms.forEach((arm, index) => {
  const label = element("label");
  const box = element("input");
  box.type = "checkbox";
  box.checked = true;
  box.addEventListener("change", () => { if (box.checked) hidden.delete(index); else hidden.add(index); drawAll(); });
  const swatch = element("span", "", "swatch");
  swatch.style.background = arm.colour;
  label.append(box, swatch, arm.label + (arm.runs > 1 ? " (" + arm.runs + " seeds)" : ""));
  byId("arms").append(label);
});
byId("each-run").addEventListener("change", drawAll);
byId("metric").append(option("", "choose"), ...curves.names.filter((name) => !shown.includes(name)).map((name) => option(name, name)));
byId("metric").addEventListener("change", (event) => {
  const name = event.target.value;
  if (!name) return;
  shown.push(name);
  [...event.target.options].find((one) => one.value === name).remove();
  event.target.value = "";
  draw(name);
});

// Responses: columns of equal length; `rows` are the indices that pass the filters

const PAGE = 200;
const BOX = 1, CODE = 2, REFLECT = 4;
let data = null, texts = null, rows = [], first = 0, at = 0, problem = null;

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

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
  const run = value("f-run"), kind = value("f-kind"), step = value("f-step"), verdict = value("f-verdict"), end = value("f-end"), shows = Number(value("f-shows"));
  const words = value("f-text").toLowerCase();
  return (i) =>
    (run === "" || data.run[i] == run) && (kind === "" || data.kind[i] == kind) && (step === "" || data.step[i] == step) &&
    (verdict === "" || (data.correct[i] === 1) === (verdict === "correct")) && (end === "" || (data.truncated[i] === 1) === (end === "truncated")) &&
    (shows === 0 || (shows > 0 ? (data.shows[i] & shows) !== 0 : (data.shows[i] & -shows) === 0)) &&
    (problem === null || data.keys[data.problem[i]] === problem) && (words === "" || texts[i].includes(words));
}

function filter() {
  const pass = passes();
  rows = [];
  for (let i = 0; i < data.step.length; i++) if (pass(i)) rows.push(i);
  first = 0;
  const correct = rows.reduce((sum, i) => sum + data.correct[i], 0);
  byId("count").textContent = rows.length.toLocaleString("en") + " of " + data.step.length.toLocaleString("en") + " responses" +
    (rows.length ? ", " + (100 * correct / rows.length).toFixed(1) + " % correct, mean length " + Math.round(rows.reduce((sum, i) => sum + data.length[i], 0) / rows.length) + " tokens" : "");
  byId("f-problem").hidden = problem === null;
  if (problem !== null) byId("f-problem").textContent = "only " + problem.split("\n")[1] + " ✕";
  list();
  select(0);
}

function verdictOf(i) { return data.correct[i] ? "correct" : "incorrect"; }
function title(i) { return data.runs[data.run[i]] + " · " + data.kinds[data.kind[i]] + " · step " + data.step[i] + " · sample " + data.sample[i]; }

function list() {
  const made = rows.slice(first, first + PAGE).map((i, place) => {
    const row = element("div", undefined, "row");
    row.id = "row-" + (first + place);
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", "false");
    const head = element("div", undefined, "head");
    head.append(element("span", verdictOf(i), verdictOf(i)), " " + (data.truncated[i] ? "truncated, " : "") + data.length[i] + " tokens · step " + data.step[i] + " · " + data.kinds[data.kind[i]] + (data.runs.length > 1 ? " · " + data.runs[data.run[i]] : ""));
    row.append(head, element("div", data.problems.question[data.problem[i]].slice(0, 120)), element("div", data.response[i].slice(-80)));
    row.addEventListener("click", () => select(first + place));
    return row;
  });
  byId("list").replaceChildren(...made);
  byId("page").textContent = rows.length ? (first + 1) + " to " + Math.min(first + PAGE, rows.length) : "none";
  byId("back").disabled = first === 0;
  byId("more").disabled = first + PAGE >= rows.length;
}

function select(place) {
  if (place < 0 || (place >= rows.length && rows.length)) return;
  if (rows.length && (place < first || place >= first + PAGE)) { first = Math.floor(place / PAGE) * PAGE; list(); }
  byId("row-" + at)?.setAttribute("aria-selected", "false");
  at = place;
  const row = byId("row-" + at);
  if (!row) { byId("left").replaceChildren(element("p", "No response passes these filters.")); byId("right").hidden = true; byId("other").replaceChildren(); return; }
  row.setAttribute("aria-selected", "true");
  byId("list").setAttribute("aria-activedescendant", row.id);
  // Not scrollIntoView, which would scroll the page as well.
  const box = byId("list"), top = row.offsetTop - box.offsetTop;
  if (top < box.scrollTop) box.scrollTop = top;
  else if (top + row.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = top + row.offsetHeight - box.clientHeight;
  show(byId("left"), rows[at]);
  others(rows[at]);
}

// A response with highlighted boxes, code, reflection words and search matches

function braces(text, from) {
  let depth = 0;
  for (let i = from; i < text.length; i++) {
    if (text[i] === "{") depth++;
    else if (text[i] === "}" && --depth === 0) return i + 1;
  }
  return text.length;
}

function spans(text, search) {
  const found = [];
  const all = (pattern, kind, end) => { for (const one of text.matchAll(pattern)) found.push([one.index, end ? end(one) : one.index + one[0].length, kind]); };
  all(/```[\s\S]*?(?:```|$)/g, "code");
  all(/^[ \t]*(?:def \w+\(|print\(|from [\w.]+ import |import \w[\w.]*(?: as \w+)?[ \t]*$).*$/gm, "code");
  all(/\\(?:boxed|fbox)\b/g, "box", (one) => text[one.index + one[0].length] === "{" ? braces(text, one.index + one[0].length) : one.index + one[0].length);
  all(new RegExp("\\b(?:" + data.reflection.join("|").replaceAll(" ", "\\s+") + ")\\b", "gi"), "reflect");
  if (search) {
    const low = text.toLowerCase();
    for (let i = low.indexOf(search); i >= 0; i = low.indexOf(search, i + search.length)) found.push([i, i + search.length, "match"]);
  }
  return found;
}

function highlighted(text, search) {
  const made = element("pre");
  const found = spans(text, search);
  const cuts = [...new Set([0, text.length, ...found.flatMap(([a, b]) => [a, b])])].sort((a, b) => a - b);
  const order = ["match", "box", "reflect", "code"];
  for (let i = 0; i + 1 < cuts.length; i++) {
    const kinds = found.filter(([a, b]) => a <= cuts[i] && b >= cuts[i + 1]).map((one) => one[2]);
    const kind = order.find((one) => kinds.includes(one));
    const part = text.slice(cuts[i], cuts[i + 1]);
    made.append(kind ? element("mark", part, "m-" + kind) : document.createTextNode(part));
  }
  return made;
}

function show(view, i) {
  const which = data.problem[i];
  const head = element("h3", title(i));
  const facts = element("dl");
  const fact = (name, text, kind) => { facts.append(element("dt", name), element("dd", text, kind)); };
  fact("verdict", verdictOf(i) + " (" + data.statuses[data.status[i]] + ")", verdictOf(i));
  fact("extracted", data.extracted[i] ?? "nothing");
  fact("gold", data.problems.gold[which]);
  fact("reward", String(data.reward[i]));
  for (const [name, value] of Object.entries(JSON.parse(data.partsets[data.parts[i]]))) fact("· " + name, String(value));
  fact("length", data.length[i] + " tokens, " + (data.truncated[i] ? "truncated at the limit" : "stopped"));
  fact("problem", data.problems.id[which] + (data.problems.level[which] ? " (" + data.problems.level[which] + ")" : ""));
  const prompt = element("details");
  prompt.append(element("summary", "prompt as the model received it"), element("pre", data.problems.prompt[which]));
  const search = byId("f-text").value.toLowerCase();
  view.replaceChildren(head, facts, element("h4", "question"), highlighted(data.problems.question[which], search), element("h4", "response"), highlighted(data.response[i], search), prompt);
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

function keys(event) {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox";
  if (event.key === "Escape") { problem = null; ["f-run", "f-kind", "f-step", "f-verdict", "f-end", "f-shows", "f-text"].forEach((id) => { byId(id).value = ""; }); filter(); return; }
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const inList = event.target === byId("list");
  const moves = { j: 1, k: -1, ...(inList ? { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 } : {}) };
  if (event.key in moves) select(Math.min(Math.max(at + moves[event.key], 0), Math.max(rows.length - 1, 0)));
  else if (inList && event.key === "Home") select(0);
  else if (inList && event.key === "End") select(rows.length - 1);
  else if (event.key === "/") byId("f-text").focus();
  else if (event.key === "s" && !byId("both").disabled) { byId("both").checked = !byId("both").checked; beside(); }
  else return;
  event.preventDefault();
}

async function browse() {
  const packed = byId("rollout-data").textContent;
  if (!packed) { byId("browser").hidden = true; return; }
  data = await inflate(packed);
  texts = data.response.map((text, i) => (data.problems.id[data.problem[i]] + "\n" + data.problems.question[data.problem[i]] + "\n" + text).toLowerCase());
  data.keys = data.problems.id.map((id, i) => data.problems.kind[i] + "\n" + id);  // problems with different prompts share a key
  data.byKey = new Map();
  data.problem.forEach((which, i) => { const key = data.keys[which]; if (!data.byKey.has(key)) data.byKey.set(key, []); data.byKey.get(key).push(i); });
  fill("f-run", "all", data.runs.map((_, i) => i), (i) => data.runs[i]);
  fill("f-kind", "everywhere", data.kinds.map((_, i) => i), (i) => data.kinds[i]);
  fillSteps();
  ["f-verdict", "f-end", "f-shows", "f-step"].forEach((id) => byId(id).addEventListener("change", filter));
  ["f-run", "f-kind"].forEach((id) => byId(id).addEventListener("change", () => { fillSteps(); filter(); }));
  let waiting = 0;
  byId("f-text").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); });
  byId("f-problem").addEventListener("click", () => { problem = null; filter(); });
  byId("only").addEventListener("click", () => { if (rows.length) { problem = data.keys[data.problem[rows[at]]]; filter(); } });
  byId("both").addEventListener("change", beside);
  byId("other").addEventListener("change", beside);
  byId("back").addEventListener("click", () => select(first - PAGE));
  byId("more").addEventListener("click", () => select(first + PAGE));
  document.addEventListener("keydown", keys);
  filter();
}

setTheme(system.matches);
browse().catch((error) => { byId("count").textContent = "The responses cannot be shown: " + error.message; throw error; });

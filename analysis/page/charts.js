"use strict";
// Shared helpers, colours, line charts and the heat map. Text from runs is inserted through textContent, never as HTML.
const byId = (id) => document.getElementById(id);
const element = (tag, text, kind) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
};
const option = (value, text) => { const made = element("option", text); made.value = value; return made; };
const svg = (tag, attributes, text) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
};
const say = (text) => { byId("spoken").textContent = text; };
const compact = (value) => {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e4) return new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 }).format(value);
  return size === 0 || size >= 1e-3 ? String(Number(value.toPrecision(4))) : value.toExponential(1);
};

// Light and dark: the system's choice until the button is pressed

const root = document.documentElement;
const system = window.matchMedia("(prefers-color-scheme: dark)");
const DARK = { "#0072B2": "#4fb0ea", "#D55E00": "#ff8f47", "#009E73": "#35cfa2", "#CC79A7": "#e9a3c9", "#E69F00": "#f4bb45", "#56B4E9": "#9ad6fa", "#000000": "#ffffff" };
const shade = (colour) => (root.dataset.theme === "dark" ? DARK[colour] ?? colour : colour);
const setTheme = (dark) => {
  root.dataset.theme = dark ? "dark" : "light";
  byId("theme").setAttribute("aria-pressed", String(dark));
  document.querySelectorAll("[style*='--arm']").forEach((one) => {
    one.dataset.arm ??= one.style.getPropertyValue("--arm").trim();
    one.style.setProperty("--arm", shade(one.dataset.arm));
  });
  drawAll();
  drawHeat();
};
system.addEventListener("change", (event) => setTheme(event.matches));
byId("theme").addEventListener("click", () => setTheme(root.dataset.theme !== "dark"));

// Curves

const curves = JSON.parse(byId("curve-data").textContent);
const hidden = new Set();
const figures = new Map();  // metric -> {figure, at}
const shown = curves.shown.slice();

// Returns the lines to draw: {label, colour, dash, x, y, low, high}.
function linesOf(metric) {
  const found = [];
  const each = byId("each-run").checked;
  curves.arms.forEach((arm, index) => {
    const band = metric.bands[index];
    if (!band || hidden.has(index)) return;
    const look = { colour: shade(arm.colour), dash: arm.dash };
    if (each && band.runs.length > 1) band.runs.forEach((run) => found.push({ ...look, label: run.name, x: run.x, y: run.y }));
    else found.push({ ...look, label: arm.label, x: band.x, y: band.mean, ...(band.seeds > 1 ? { low: band.low, high: band.high } : {}) });
  });
  return found;
}

function ticks(low, high, count) {
  if (!(high > low)) return [low];
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= raw);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) found.push(Math.abs(value) < step * 1e-9 ? 0 : value);
  return found;
}

function range(values, pad) {
  const known = values.filter((one) => one !== null && one !== undefined);
  if (!known.length) return [0, 1];
  let low = known[0], high = known[0];
  for (const one of known) { if (one < low) low = one; if (one > high) high = one; }
  if (low === high) return [low - (Math.abs(low) || 1) * 0.5, high + (Math.abs(high) || 1) * 0.5];
  return [low - (high - low) * pad, high + (high - low) * pad];
}

// Splits a line where values are missing and returns the path.
function pathOf(x, y, px, py) {
  let path = "", open = false;
  x.forEach((one, i) => {
    if (y[i] === null) { open = false; return; }
    path += (open ? "L" : "M") + px(one).toFixed(1) + " " + py(y[i]).toFixed(1);
    open = true;
  });
  return path;
}

function bandPath(line, px, py) {
  const points = line.x.map((_, i) => i).filter((i) => line.low[i] !== null && line.high[i] !== null);
  if (points.length < 2) return "";
  const up = points.map((i) => px(line.x[i]).toFixed(1) + " " + py(line.high[i]).toFixed(1));
  const down = points.reverse().map((i) => px(line.x[i]).toFixed(1) + " " + py(line.low[i]).toFixed(1));
  return "M" + [...up, ...down].join("L") + "Z";
}

function draw(name) {
  const entry = figures.get(name), metric = curves.metrics[name], lines = linesOf(metric);
  const figure = entry.figure, large = figure.classList.contains("large");
  const width = Math.max(figure.clientWidth, 240), height = large ? 420 : 210;
  const [low, high] = range(lines.flatMap((line) => [...line.y, ...(line.low ?? []), ...(line.high ?? [])]), 0.06);
  const [first, last] = range(lines.flatMap((line) => line.x), 0);
  const marks = ticks(low, high, large ? 7 : 4);
  const left = 14 + Math.max(...marks.map((one) => compact(one).length)) * 7, right = 8, top = 8, bottom = 24;
  const px = (x) => left + ((x - first) / (last - first || 1)) * (width - left - right);
  const py = (y) => top + (1 - (y - low) / (high - low)) * (height - top - bottom);
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: "0", "aria-label": summary(metric, lines) });
  for (const mark of marks) {
    drawing.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: py(mark), y2: py(mark) }));
    drawing.append(svg("text", { x: left - 7, y: py(mark) + 4, "text-anchor": "end" }, compact(mark)));
  }
  for (const mark of ticks(first, last, Math.max(2, Math.floor(width / 90))).filter(Number.isInteger)) drawing.append(svg("text", { x: px(mark), y: height - 5, "text-anchor": mark === last ? "end" : mark === first ? "start" : "middle" }, compact(mark)));
  for (const line of lines) if (line.low) drawing.append(svg("path", { d: bandPath(line, px, py), fill: line.colour, "fill-opacity": 0.16 }));
  for (const line of lines) {
    drawing.append(svg("path", { class: "line", d: pathOf(line.x, line.y, px, py), stroke: line.colour, "stroke-dasharray": line.dash }));
    if (line.x.length < 2) line.x.forEach((x, i) => drawing.append(svg("circle", { cx: px(x), cy: py(line.y[i] ?? low), r: 3, fill: line.colour })));
  }
  const cursor = svg("g", {});
  drawing.append(cursor);
  figure.querySelector("svg")?.remove();
  figure.querySelector(".tip")?.remove();
  figure.append(drawing);
  Object.assign(entry, { lines, px, py, cursor, width, height, top, bottom, steps: [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b) });
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect(), x = ((event.clientX - box.left) / box.width) * width;
    point(entry, nearest(entry.steps, first + ((x - left) / (width - left - right)) * (last - first)));
  });
  drawing.addEventListener("pointerleave", () => point(entry, null));
  drawing.addEventListener("blur", () => point(entry, null));
  drawing.addEventListener("keydown", (event) => walk(entry, metric, event));
}

function summary(metric, lines) {
  const parts = lines.slice(0, 8).map((line) => {
    const known = line.y.map((_, i) => i).filter((i) => line.y[i] !== null);
    if (!known.length) return line.label + ": no values";
    const [a, b] = [known[0], known[known.length - 1]];
    return `${line.label}: ${compact(line.y[a])} at step ${line.x[a]}, ${compact(line.y[b])} at step ${line.x[b]}`;
  });
  return metric.label + ". " + parts.join("; ");
}

const nearest = (steps, x) => steps.reduce((best, one) => (Math.abs(one - x) < Math.abs(best - x) ? one : best), steps[0]);

// Marks a step of a chart and shows its values; null: removes the mark.
function point(entry, step) {
  entry.at = step;
  entry.cursor.replaceChildren();
  entry.figure.querySelector(".tip")?.remove();
  if (step === null || step === undefined) return "";
  const x = entry.px(step), rows = [];
  entry.cursor.append(svg("line", { class: "cursor", x1: x, x2: x, y1: entry.top, y2: entry.height - entry.bottom }));
  for (const line of entry.lines) {
    const value = line.y[line.x.indexOf(step)];
    if (value === undefined || value === null) continue;
    entry.cursor.append(svg("circle", { cx: x, cy: entry.py(value), r: 4, fill: line.colour }));
    rows.push([line, compact(value) + (line.low ? ` (${compact(line.low[line.x.indexOf(step)])} to ${compact(line.high[line.x.indexOf(step)])})` : "")]);
  }
  const tip = element("div", undefined, "tip"), table = element("table");
  tip.append(element("b", "step " + step), table);
  for (const [line, text] of rows) {
    const row = element("tr"), name = element("td"), swatch = element("i", "", "swatch");
    swatch.style.background = line.colour;
    name.append(swatch, line.label);
    row.append(name, element("td", text, "number"));
    table.append(row);
  }
  entry.figure.append(tip);
  const box = entry.figure.getBoundingClientRect(), place = (x / entry.width) * box.width;
  tip.style.top = "2.2rem";
  if (place > box.width / 2) tip.style.right = Math.max(0, box.width - place + 12) + "px"; else tip.style.left = place + 12 + "px";
  return `step ${step}: ` + rows.map(([line, text]) => `${line.label} ${text}`).join(", ");
}

function walk(entry, metric, event) {
  const places = { ArrowRight: 1, ArrowLeft: -1, Home: -1e9, End: 1e9 };
  if (!(event.key in places) || !entry.steps.length) return;
  const now = entry.steps.indexOf(entry.at);
  const last = entry.steps.length - 1;
  const next = now < 0 && event.key === "ArrowLeft" ? last : Math.min(Math.max(now + places[event.key], 0), last);
  say(metric.label + ", " + point(entry, entry.steps[next]));
  event.preventDefault();
}

function add(name, place) {
  const figure = element("figure", undefined, "plot"), caption = element("figcaption", curves.metrics[name].label), larger = element("button", "⤢");
  larger.type = "button";
  larger.setAttribute("aria-label", "Enlarge " + curves.metrics[name].label);
  larger.addEventListener("click", () => { figure.classList.toggle("large"); draw(name); });
  caption.append(larger);
  figure.append(caption);
  place.append(figure);
  figures.set(name, { figure, at: null });
}

function drawAll() { for (const name of figures.keys()) draw(name); }

function legend() {
  const alone = curves.arms.length === 1 && curves.arms[0].runs < 2;
  curves.arms.forEach((arm, index) => {
    if (alone) return;
    const label = element("label"), box = element("input"), swatch = element("i", "", "swatch");
    box.type = "checkbox";
    box.checked = true;
    box.addEventListener("change", () => { if (box.checked) hidden.delete(index); else hidden.add(index); drawAll(); });
    swatch.style.setProperty("--arm", arm.colour);
    label.append(box, swatch, arm.label + (arm.runs > 1 ? " (" + arm.runs + " seeds)" : ""));
    byId("arms").append(label);
  });
  byId("each-run").parentElement.hidden = curves.arms.every((arm) => arm.runs < 2);
}

curves.first.forEach((name) => add(name, byId("first-plots")));
shown.filter((name) => !figures.has(name)).forEach((name) => add(name, byId("plots")));
legend();
byId("each-run").addEventListener("change", drawAll);
byId("metric").append(option("", "a metric"), ...curves.names.filter((name) => !figures.has(name)).map((name) => option(name, name)));
byId("metric").addEventListener("change", (event) => {
  const name = event.target.value;
  if (!name) return;
  add(name, byId("plots"));
  [...event.target.options].find((one) => one.value === name).remove();
  event.target.value = "";
  draw(name);
});
let resized = 0;
window.addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(() => { drawAll(); drawHeat(); }, 120); });

// Heat map: one canvas per arm, a row per problem and a column per step

const heat = JSON.parse(byId("heat-data").textContent);

function heatFigure(arm) {
  const figure = element("figure"), canvas = element("canvas"), axis = element("div", undefined, "axis"), moves = element("p", undefined, "moves");
  const caption = element("figcaption"), swatch = element("i", "", "swatch");
  swatch.style.setProperty("--arm", (curves.arms.find((one) => one.label === arm.label) ?? { colour: "#0072B2" }).colour);
  caption.append(...(heat.arms.length > 1 ? [swatch] : []), arm.label);
  axis.append(element("span", "step " + arm.steps[0]), element("span", "step " + arm.steps[arm.steps.length - 1]));
  for (const [name, text] of [["kept", "stay solved"], ["gained", "become solved"], ["lost", "are lost"], ["never", "stay unsolved"]]) {
    const one = element("span");
    one.append(element("b", String(arm[name])), " " + text);
    moves.append(one);
  }
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Solve rates of ${arm.values.length} problems, ${arm.label}: ${moves.textContent}. Arrow keys move through problems and steps, Enter shows the responses.`);
  figure.append(caption, canvas, axis, moves);
  arm.canvas = canvas;
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    arm.at = [Math.floor(((event.clientY - box.top) / box.height) * arm.values.length), Math.floor(((event.clientX - box.left) / box.width) * arm.steps.length)];
    tell(arm);
  });
  canvas.addEventListener("pointerleave", () => { figure.querySelector(".tip")?.remove(); });
  canvas.addEventListener("blur", () => { figure.querySelector(".tip")?.remove(); });
  canvas.addEventListener("click", () => open(arm));
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [-20, 0], PageDown: [20, 0] }[event.key];
    if (event.key === "Enter") open(arm);
    else if (by) { arm.at = [(arm.at?.[0] ?? -1) + by[0], (arm.at?.[1] ?? arm.steps.length - 1) + by[1]]; say(tell(arm)); } else return;
    event.preventDefault();
  });
  return figure;
}

function tell(arm) {
  arm.at = [Math.min(Math.max(arm.at[0], 0), arm.values.length - 1), Math.min(Math.max(arm.at[1], 0), arm.steps.length - 1)];
  const [row, column] = arm.at, problem = heat.problems[row], value = arm.values[row][column], figure = arm.canvas.parentElement;
  const text = `${problem.id}, step ${arm.steps[column]}: ${value === null ? "not sampled" : value + " % correct"}`;
  figure.querySelector(".tip")?.remove();
  const tip = element("div", undefined, "tip");
  tip.append(element("b", text), element("br"), problem.question.slice(0, 60));
  tip.style.top = arm.canvas.offsetTop + (row / arm.values.length) * arm.canvas.clientHeight + 14 + "px";
  if (column > arm.steps.length / 2) tip.style.right = "8px"; else tip.style.left = "8px";
  figure.append(tip);
  return text;
}

const open = (arm) => { if (arm.at && window.showProblem) window.showProblem(heat.problems[arm.at[0]]); };

function drawHeat() {
  if (!heat.arms) return;
  const style = getComputedStyle(root);
  const [low, high] = ["--heat-low", "--heat-high"].map((name) => style.getPropertyValue(name).trim().split(" ").map(Number));
  for (const arm of heat.arms) {
    const rows = arm.values.length, canvas = arm.canvas;
    canvas.width = arm.steps.length;
    canvas.height = rows;
    canvas.style.height = Math.min(Math.max(rows, 160), 420) + "px";
    const context = canvas.getContext("2d"), pixels = context.createImageData(arm.steps.length, rows);
    arm.values.forEach((own, row) => own.forEach((value, column) => {
      const part = value === null ? null : value / 100;
      pixels.data.set([...[0, 1, 2].map((i) => (part === null ? low[i] : low[i] + part * (high[i] - low[i]))), part === null ? 0 : 255], 4 * (row * arm.steps.length + column));
    }));
    context.putImageData(pixels, 0, 0);
  }
}

if (heat.arms) {
  const place = element("div", undefined, "heats");
  place.append(...heat.arms.map(heatFigure));
  byId("heat").append(place);
  const which = heat.evaluated ? "held-out problems" : "training problems that were sampled in several steps";
  byId("heat-note").append(`Each row is one of ${heat.problems.length.toLocaleString("en")}${heat.all > heat.problems.length ? " of " + heat.all.toLocaleString("en") : ""} ${which}, the easiest on top; each column is an evaluated step. 0 %`, element("span", "", "legend"), "100 % correct. Choose a row to read its responses.");
} else document.querySelectorAll("[data-part='heat']").forEach((one) => { one.hidden = true; });

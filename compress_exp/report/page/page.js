"use strict";

const {sections, histories, weights: recorded} = JSON.parse(document.getElementById("data").textContent);
const panels = [...document.querySelectorAll("section.task")];
const models = new Set(sections.flatMap(({entries}) => entries.map((entry) => entry.model))).size;
let current = 0;
let weights = {...recorded};

const fromTemplate = (id) => document.getElementById(id).content.cloneNode(true).firstElementChild;
const controls = fromTemplate("controls");
const detail = fromTemplate("detail");
const tip = document.getElementById("tip");

/** Show one section, and draw what is seen of it. */
function show(number) {
  current = number;
  panels.forEach((panel, index) => { panel.hidden = index !== number; });
  for (const tab of document.querySelectorAll(".tab")) {
    const own = Number(tab.dataset.section) === number;
    tab.toggleAttribute("aria-current", own);
    if (own) tab.scrollIntoView({block: "nearest", inline: "nearest"});
  }
  for (const other of panels) if (other.hidden) discard(other.querySelectorAll("[data-figure]"));
  const panel = panels[number];
  panel.querySelector(".controls-slot").append(controls);
  panel.querySelector(".detail-slot").append(detail);
  controls.querySelector(".answer").replaceChildren();
  hidden.clear();
  for (const item of panel.querySelectorAll("[data-hides]")) item.setAttribute("aria-pressed", "true");
  for (const place of panel.querySelectorAll("[data-figure]")) {
    whenSeen(place, () => drawNamed(place, sections[number]));
  }
  rank();
  const best = panel.querySelector("tbody tr:not(.dense)");
  if (best) select(Number(best.dataset.index), false);
}

function drawNamed(place, section) {
  const figure = section.figures[place.dataset.figure];
  if (!figure) {
    place.classList.add("none");
    place.textContent = "Nothing of this was measured.";
    return;
  }
  if (place.dataset.figure === "cost") place.style.height = `${Math.max(220, 120 + 34 * new Set(figure.data.flatMap((trace) => trace.y)).size)}px`;
  if (place.dataset.figure === "parallel" && !document.createElement("canvas").getContext("webgl")) {
    place.classList.add("none");
    place.textContent = "This figure needs WebGL, which this browser does not have.";
    return;
  }
  draw(place, figure, {click: (index) => select(index, true), hover: tell, leave: () => { tip.hidden = true; }}, section);
}

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

/** What a point is, beside the pointer. */
function tell(index, pointer) {
  const entry = sections[current].entries[index];
  tip.replaceChildren(element("strong", entry.label), ...entry.hover.map((line) => element("span", line)));
  for (const [name] of entry.badges) tip.append(element("span", `⚠ ${name}`));
  if (!entry.dense) {
    tip.append(...entry.configuration.map((line) => element("code", line)), element("code", entry.command, "command"));
  }
  tip.hidden = false;
  const room = 14;
  const right = pointer.clientX + room + tip.offsetWidth < innerWidth;
  tip.style.left = `${Math.max(right ? pointer.clientX + room : pointer.clientX - room - tip.offsetWidth, 4)}px`;
  tip.style.top = `${Math.max(Math.min(pointer.clientY + room, innerHeight - tip.offsetHeight - 4), 4)}px`;
}

/** Everything about one run. */
function select(index, scroll) {
  const entry = sections[current].entries[index];
  if (!entry || entry.dense) return;
  for (const row of panels[current].querySelectorAll("tr.chosen")) row.classList.remove("chosen");
  panels[current].querySelector(`tr[data-index="${index}"]`).classList.add("chosen");
  detail.querySelector("h3").textContent = entry.label;
  const seeds = entry.seeds.length > 1 ? `seeds ${entry.seeds.join(", ")}` : `seed ${entry.seeds[0]}`;
  const which = entry.seeds.length > 1 ? ` · command and steps: those of seed ${entry.seeds[0]}` : "";
  detail.querySelector(".where").textContent = `${entry.model} · ${seeds} · ${entry.runs.join(", ")}${which}`;
  detail.querySelector(".command").textContent = entry.command;
  detail.querySelector(".configuration").textContent = entry.configuration.join("\n");
  detail.querySelector(".badges").replaceChildren(...entry.badges.map(([name, sentence]) => {
    const line = element("p", sentence, "note");
    line.prepend(element("span", name, "badge"));
    return line;
  }));
  discard(detail.querySelectorAll(".plot"));
  detail.querySelector(".falls").replaceChildren(...entry.waterfalls.map((figure) => {
    const place = element("div", "", "plot");
    whenSeen(place, () => draw(place, figure));
    return place;
  }));
  detail.querySelector(".curves").hidden = !entry.chains.length;
  const place = element("div", "", "plot");
  detail.querySelector(".curves .plot").replaceWith(place);
  if (entry.chains.length) whenSeen(place, () => draw(place, curveFigure(entry.chains, histories)));
  if (scroll) detail.scrollIntoView({behavior: "smooth", block: "nearest"});
}

/** The values of the score's column under the present weights, the order by them, and what follows from it. */
function rank() {
  for (const row of panels[current].querySelectorAll("tbody tr[data-index]")) {
    const value = score(sections[current].entries[Number(row.dataset.index)], weights);
    const cell = row.cells[column("score")];
    cell.dataset.value = value === null ? "" : value;
    cell.textContent = value === null ? "–" : value.toFixed(2);
  }
  sort("score", "descending");
  const card = panels[current].querySelector("[data-card='best weighted score']");
  const best = panels[current].querySelector("tbody tr:not(.dense)");
  if (card && best) {
    const entry = sections[current].entries[Number(best.dataset.index)];
    card.dataset.select = best.dataset.index;
    card.querySelector("strong").textContent = best.cells[column("score")].textContent;
    card.querySelector("span").textContent = models > 1 ? `${entry.label} · ${entry.model}` : entry.label;
  }
  if (controls.querySelector(".answer").hasChildNodes()) answer();
}

function column(name) {
  return [...panels[current].querySelectorAll("thead th")].findIndex((head) => head.dataset.column === name);
}

/** Order the rows by a column; what has no value is last either way. */
function sort(name, order) {
  const table = panels[current].querySelector("table.runs");
  const index = column(name);
  const number = table.tHead.rows[0].cells[index].classList.contains("number");
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows].map((row, place) => ({row, place, value: row.cells[index].dataset.value}));
  rows.sort((one, other) => (one.value === "") - (other.value === "")
    || (number ? sign * (one.value - other.value) : sign * one.value.localeCompare(other.value))
    || one.place - other.place);
  table.tBodies[0].append(...rows.map(({row}) => row));
  for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
  table.tHead.rows[0].cells[index].setAttribute("aria-sort", order);
  filter();
}

/** Hide the rows that lack a word, have one that is marked with "-", or fail a checked box; and their points in the figures. */
function filter() {
  const panel = panels[current];
  const words = panel.querySelector(".filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const front = panel.querySelector(".only-front").checked;
  const sound = panel.querySelector(".only-sound").checked;
  const sorted = () => [...filtered].sort((one, other) => one - other).join();
  const before = sorted();
  filtered.clear();
  let shown = 0;
  const rows = panel.querySelectorAll("tbody tr[data-index]");
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    const fits = words.every((word) => word.length > 1 && word[0] === "-" ? !text.includes(word.slice(1)) : text.includes(word));
    row.hidden = !(fits && (!front || "front" in row.dataset) && (!sound || !row.querySelector(".badge")));
    shown += !row.hidden;
    if (row.hidden) filtered.add(Number(row.dataset.index));
  }
  if (sorted() !== before) later(() => repaint(false));
  panel.querySelector(".count").textContent = `${shown} of ${rows.length}`;
}

/** Do something when nothing asked for it again for a moment. */
function later(action) {
  clearTimeout(later.timer);
  later.timer = setTimeout(action, 120);
}

function answer() {
  const form = controls.querySelector(".choose");
  const limits = {};
  for (const name of Object.keys(LIMITS)) limits[name] = form.elements[name].value === "" ? null : form.elements[name].valueAsNumber;
  const entries = sections[current].entries;
  const found = choose(entries, limits, weights);
  const place = form.querySelector(".answer");
  if (found.reason) {
    place.replaceChildren(element("p", found.reason, "none"));
    return;
  }
  const entry = entries[found.index];
  const line = element("p", ` has the best score of ${found.among === 1 ? "the one run" : `${found.among} runs`} within the limits.`);
  line.prepend(element("strong", entry.label), document.createTextNode(` (${entry.model})`));
  place.replaceChildren(line, element("pre", entry.command, "command"));
  select(found.index, false);
}

document.addEventListener("click", (event) => {
  const target = event.target.closest("button, tr[data-index]");
  if (!target) return;
  if (target.matches(".tab")) show(Number(target.dataset.section));
  else if (target.dataset.select !== undefined) select(Number(target.dataset.select), true);
  else if (target.dataset.hides !== undefined) {
    const off = target.getAttribute("aria-pressed") === "true";
    target.setAttribute("aria-pressed", String(!off));
    hidden[off ? "add" : "delete"](target.dataset.hides);
    repaint(false);
  } else if (target.matches("thead button")) {
    const head = target.parentElement;
    const first = head.classList.contains("number") ? "descending" : "ascending";
    const other = first === "descending" ? "ascending" : "descending";
    sort(head.dataset.column, head.getAttribute("aria-sort") === first ? other : first);
  } else if (target.matches(".copy")) navigator.clipboard?.writeText(detail.querySelector(".command").textContent);
  else if (target.closest("tr[data-index]")) select(Number(target.closest("tr").dataset.index), true);
});

controls.querySelector(".weights").addEventListener("input", (event) => {
  event.target.nextElementSibling.textContent = event.target.value;
  weights = {...weights, [event.target.name]: event.target.valueAsNumber};
  rank();
});
controls.querySelector(".weights").addEventListener("reset", (event) => {
  weights = {...recorded};
  for (const [name, value] of Object.entries(recorded)) event.target.elements[name].nextElementSibling.textContent = value;
  rank();
});
controls.querySelector(".choose").addEventListener("submit", (event) => {
  event.preventDefault();
  answer();
});
for (const panel of panels) {
  for (const box of panel.querySelectorAll(".filter, .only-front, .only-sound")) box.addEventListener("input", filter);
}
if (panels.length) show(0);

"use strict";

const CONFIG = {displaylogo: false, responsive: true, displayModeBar: true, modeBarButtons: [["toImage", "zoom2d", "resetScale2d"]]};
const drawn = new Map();
const hidden = new Set();
const filtered = new Set();
const best = {bars: true, shapes: true};

/** Plotly is run after the page has been seen once: tables and boxes do not wait for it. */
const plotly = new Promise((done) => {
  requestAnimationFrame(() => setTimeout(() => {
    const script = document.createElement("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.head.append(script);
    done();
  }));
});

/** The look of all figures, from the page's own colours. */
function look() {
  const css = getComputedStyle(document.documentElement);
  const colour = (name) => css.getPropertyValue(name).trim();
  const axis = {
    gridcolor: colour("--grid"), linecolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true,
    title: {font: {size: 12, color: colour("--soft")}, standoff: 8}, tickfont: {size: 11, color: colour("--soft")},
  };
  return {layout: {
    font: {family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--text")},
    paper_bgcolor: colour("--panel"), plot_bgcolor: colour("--panel"), xaxis: axis, yaxis: axis,
    margin: {l: 52, r: 14, t: 12, b: 44},
    legend: {orientation: "h", x: 0, y: -0.2, yanchor: "top", font: {size: 11.5, color: colour("--soft")}},
    hoverlabel: {align: "left", bgcolor: colour("--panel"), bordercolor: colour("--line"),
      font: {size: 11.5, color: colour("--text")}},
    hovermode: "closest", dragmode: false, colorway: ["#4c78d8", "#f2811d", "#2fa66a", "#d6455d", "#9467d8", "#12a5b8", "#c79a12"],
  }};
}

/** Draw a figure in a place, once more when the page turns dark or light. */
function draw(place, figure, actions, section) {
  drawn.set(place, {figure, actions, section});
  plotly.then(() => drawn.has(place) && paint(place));
}

/** Whether neither the legend nor the table's filter hides a method, a model, an entry. */
function seeable(method, model, entry) {
  return !hidden.has(`method ${method}`) && !hidden.has(`model ${model}`) && !filtered.has(entry);
}

/** Of traces that stand for one entry each the one with the best quality for each model and method, the first of equals. */
function bestOnly(data, {entries, higher}) {
  const chosen = new Map();
  for (const trace of data) {
    const key = JSON.stringify([trace.meta.model, trace.meta.method]);
    const quality = entries[trace.meta.entry].quality;
    const other = chosen.has(key) ? entries[chosen.get(key).meta.entry].quality : null;
    if (quality !== null && (other === null || (higher ? quality > other : quality < other))) chosen.set(key, trace);
  }
  return [...chosen.values()];
}

/** A trace of points without those that are hidden; `customdata` are their entries. */
function withoutHidden(trace) {
  const kept = (values) => values.filter((_, index) => !filtered.has(trace.customdata[index]));
  const {marker} = trace;
  for (const [holder, name] of [[marker, "size"], [marker, "opacity"], [marker.line ?? {}, "width"], [trace, "x"], [trace, "y"], [trace, "customdata"]]) {
    if (Array.isArray(holder[name])) holder[name] = kept(holder[name]);
  }
}

function paint(place) {
  const {figure, actions, section} = drawn.get(place);
  let data = structuredClone(figure.data).filter(({meta}) => !meta || meta.entries || seeable(meta.method, meta.model, meta.entry));
  if (best[place.dataset.figure]) data = bestOnly(data, section);
  for (const trace of data) {
    if (trace.customdata && trace.type === "scatter") withoutHidden(trace);
    if (trace.type === "parcoords") {
      const {methods, models, entries} = trace.meta;
      const kept = (values) => values.filter((_, index) => seeable(methods[index], models[index], entries[index]));
      trace.line.color = kept(trace.line.color);
      for (const dimension of trace.dimensions) {
        dimension.range = [Math.min(...dimension.values), Math.max(...dimension.values)];
        dimension.values = kept(dimension.values);
      }
      trace.labelfont = {size: 12.5};
      trace.tickfont = {size: 10.5};
      trace.rangefont = {size: 1, color: "rgba(0,0,0,0)"};
    }
  }
  const layout = {...structuredClone(figure.layout), template: look()};
  if (data.some((trace) => trace.type === "parcoords")) layout.margin = {l: 56, r: 40, t: 48, b: 16};
  Plotly.react(place, data, layout, CONFIG).then(() => {
    if (!actions || place.dataset.wired) return;
    place.dataset.wired = "yes";
    const told = (name) => (event) => {
      const index = event.points[0].customdata;
      if (index !== undefined && index !== null) actions[name](Number(index), event.event);
    };
    place.on("plotly_click", told("click"));
    place.on("plotly_hover", told("hover"));
    place.on("plotly_unhover", actions.leave);
  });
}

/** Draw each place when it is about to be seen. */
const seen = new IntersectionObserver((changes) => {
  for (const change of changes) {
    if (!change.isIntersecting) continue;
    seen.unobserve(change.target);
    change.target.drawWhenSeen();
  }
}, {rootMargin: "300px"});

function whenSeen(place, action) {
  place.drawWhenSeen = action;
  seen.observe(place);
}

/** Forget figures that are seen no more: a browser keeps few WebGL contexts alive, parallel coordinates take three. */
function discard(places) {
  for (const place of places) {
    seen.unobserve(place);
    if (drawn.delete(place)) plotly.then(() => erase(place));
  }
}

function erase(place) {
  const canvases = [...place.querySelectorAll("canvas")];
  Plotly.purge(place);
  for (const canvas of canvases) canvas.getContext("webgl")?.getExtension("WEBGL_lose_context")?.loseContext();
  delete place.dataset.wired;
  place.classList.remove("js-plotly-plot");
}

/** The curves of the chains of artifacts of one run, one after the other on one axis of steps. */
function curveFigure(chains, histories) {
  const data = [], shapes = [], names = [];
  for (const chain of chains) {
    let offset = 0;
    for (const key of chain) {
      const {steps, x, curves} = histories[key];
      for (const {name, kind, y} of curves) {
        const first = !names.includes(name);
        if (first) names.push(name);
        data.push({
          type: "scatter", mode: "lines", name, legendgroup: name, showlegend: first, x: x.map((step) => step + offset), y,
          yaxis: kind === "loss" ? "y" : "y2", line: {width: 1.7, color: look().layout.colorway[names.indexOf(name) % 7]},
          hovertemplate: "step %{x}: %{y:.4g}",
        });
      }
      offset += steps;
      if (chain === chains[0] && key !== chain[chain.length - 1]) {
        shapes.push({type: "line", x0: offset, x1: offset, yref: "paper", y0: 0, y1: 1, line: {width: 1, dash: "dot", color: "#8a8f98"}});
      }
    }
  }
  const state = data.some((trace) => trace.yaxis === "y2");
  const layout = {
    xaxis: {title: {text: "step"}, anchor: state ? "y2" : "y"}, shapes,
    yaxis: {title: {text: "loss"}, domain: state ? [0.42, 1] : [0, 1]},
    ...(state && {yaxis2: {title: {text: "state"}, domain: [0, 0.34], anchor: "x"}}),
  };
  return {data, layout};
}

/** Paint what has been drawn once more: everything, or the figures of sections alone. */
function repaint(all) {
  for (const place of drawn.keys()) if (place.isConnected && (all || place.dataset.figure)) plotly.then(() => paint(place));
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => repaint(true));

/** Plotly's own answer to a new width leaves legends where they were over fewer or more lines. */
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  clearTimeout(repaint.timer);
  repaint.timer = setTimeout(() => repaint(true), 250);
});

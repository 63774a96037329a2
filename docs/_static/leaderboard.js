// Filters, charts and table of docs/results/leaderboard.md; plain JavaScript, nothing from outside.
(() => {
  "use strict";
  const root = document.getElementById("leaderboard");
  const rows = JSON.parse(document.getElementById("leaderboard-data").textContent);
  const COLOURS = ["#1f5fd0", "#cf4520", "#0d8a5f", "#8b46c4", "#0a84a0", "#b36b00", "#c02d82", "#6d7a00", "#8a5638", "#47566a"];
  const unique = list => [...new Set(list)];
  const methods = unique(rows.map(r => r.method)), colour = name => COLOURS[methods.indexOf(name) % COLOURS.length];
  const places = unique(rows.map(r => r.dataset + ", " + r.model));
  const most = places.slice().sort((a, b) => count(b) - count(a))[0];
  const state = { place: most, words: "", off: new Set() };
  function count(place) { return rows.filter(r => r.dataset + ", " + r.model === place).length; }
  const make = space => (tag, attributes, ...children) => {
    const node = space ? document.createElementNS(space, tag) : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (key.startsWith("on")) node[key] = value; else if (value !== null) node.setAttribute(key, value);
    }
    node.append(...children.flat().filter(child => child !== null));
    return node;
  };
  const H = make(null), S = make("http://www.w3.org/2000/svg");
  const text = r => r.accuracy.toFixed(2) + (r.half === null ? "" : " ± " + r.half.toFixed(2));
  const told = r => `${r.method}, sparsity ${(100 * r.sparsity).toFixed(1)} %: ${text(r)} % (n = ${r.n})`;

  function chart(list, title, x, ticks, name) {
    const W = 460, Y = 290, left = 46, right = 12, top = 12, bottom = 40;
    const points = list.filter(r => x(r) !== null);
    const svg = S("svg", { viewBox: `0 0 ${W} ${Y}`, role: "img", "aria-label": title });
    if (!points.length) return H("figure", {}, H("figcaption", {}, title), H("p", {}, "no result here"));
    const low = Math.min(...points.map(r => r.accuracy - (r.half || 0))), high = Math.max(...points.map(r => r.accuracy + (r.half || 0)));
    const pad = Math.max(0.1, 0.06 * (high - low)), from = low - pad, to = high + pad;
    const xs = points.map(x), near = Math.min(...xs), far = Math.max(...xs), span = far - near || 1;
    const at = value => left + 8 + (W - left - right - 16) * (value - near) / span;
    const up = value => Y - bottom - (Y - top - bottom) * (value - from) / (to - from);
    for (let i = 0; i <= 4; i++) {
      const value = from + (to - from) * i / 4;
      svg.append(S("line", { x1: left, x2: W - right, y1: up(value), y2: up(value), class: "rule" }),
        S("text", { x: left - 6, y: up(value) + 4, "text-anchor": "end" }, value.toFixed(to - from < 4 ? 2 : 1)));
    }
    for (const [value, label] of ticks(points)) if (value >= near - 1e-9 && value <= far + 1e-9)
      svg.append(S("text", { x: at(value), y: Y - bottom + 18, "text-anchor": "middle" }, label));
    svg.append(S("text", { x: (W + left) / 2, y: Y - 6, "text-anchor": "middle" }, name));
    for (const method of unique(points.map(r => r.method))) {
      const own = points.filter(r => r.method === method).sort((a, b) => x(a) - x(b)), ink = colour(method);
      const sure = own.filter(r => r.half !== null);
      if (sure.length > 1) svg.append(S("polygon", { fill: ink, "fill-opacity": 0.14, points: [
        ...sure.map(r => at(x(r)) + "," + up(r.accuracy + r.half)), ...sure.slice().reverse().map(r => at(x(r)) + "," + up(r.accuracy - r.half))].join(" ") }));
      svg.append(S("polyline", { fill: "none", stroke: ink, "stroke-width": 1.8, points: own.map(r => at(x(r)) + "," + up(r.accuracy)).join(" ") }));
      for (const r of own) {
        if (r.half !== null) svg.append(S("line", { x1: at(x(r)), x2: at(x(r)), y1: up(r.accuracy - r.half), y2: up(r.accuracy + r.half), stroke: ink }));
        svg.append(S("circle", { cx: at(x(r)), cy: up(r.accuracy), r: 4, fill: r.n > 1 ? ink : "none", stroke: ink }, S("title", {}, told(r))));
      }
    }
    return H("figure", {}, H("figcaption", {}, title), svg);
  }

  const density = r => r.sparsity === null ? null : -Math.log10(Math.max(1e-4, 1 - r.sparsity));
  const work = r => r.flops > 0 ? Math.log10(r.flops) : null;
  const levels = list => unique(list.map(r => r.sparsity)).sort((a, b) => a - b).reduce((kept, s) =>
    kept.length && density({ sparsity: s }) - kept[kept.length - 1][0] < 0.12 ? kept : [...kept, [density({ sparsity: s }), (100 * s).toFixed(1).replace(".0", "")]], []);
  const decades = () => [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10].map(v => [Math.log10(v), String(v)]);

  function table(list) {
    const heads = ["rank", "method", "sparsity, %", "test accuracy, % (95 % interval)", "n", "training FLOPs", "epochs", "sent by", "command and runs"];
    const cell = value => H("td", {}, value);
    const body = list.slice().sort((a, b) => a.sparsity - b.sparsity || (a.rank ?? 99) - (b.rank ?? 99) || b.accuracy - a.accuracy).map(r => H("tr", {},
      cell(r.rank === null ? "–" : String(r.rank)), H("th", { scope: "row" }, r.method), cell((100 * r.sparsity).toFixed(1)), cell(r.rank === 1 ? H("strong", {}, text(r)) : text(r)),
      cell(String(r.n)), cell(r.flops === null ? "–" : r.flops.toFixed(3)), cell(r.epochs === null ? "–" : String(Math.round(r.epochs))), cell(r.who || "the authors"),
      cell(H("details", {}, H("summary", {}, r.source), H("pre", {}, r.command), H("p", {}, "runs: " + r.runs.join(", ")), r.hardware ? H("p", {}, r.hardware) : null, r.note ? H("p", {}, r.note) : null))));
    return H("table", {}, H("thead", {}, H("tr", {}, heads.map(h => H("th", { scope: "col" }, h)))), H("tbody", {}, body));
  }

  function render() {
    const here = rows.filter(r => r.dataset + ", " + r.model === state.place);
    const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    const list = here.filter(r => !state.off.has(r.method) && words.every(w => Object.values(r).join(" ").toLowerCase().includes(w)));
    const chips = unique(here.map(r => r.method)).map(name => H("label", {}, H("input", { type: "checkbox", ...(state.off.has(name) ? {} : { checked: "" }),
      onchange: e => { e.target.checked ? state.off.delete(name) : state.off.add(name); render(); } }), H("span", { style: "color:" + colour(name) }, " ● "), name));
    root.querySelector(".chips").replaceChildren(...chips);
    root.querySelector(".charts").replaceChildren(
      chart(list.filter(r => r.sparsity !== null), "Test accuracy, %, against sparsity, %", density, levels, "sparsity, % (equal factors of density)"),
      chart(list, "Test accuracy, %, against training FLOPs", work, decades, "training FLOPs, of dense"));
    root.querySelector(".numbers").replaceChildren(table(list));
  }
  root.replaceChildren(
    H("p", {}, H("label", {}, "Data set and network ", H("select", { onchange: e => { state.place = e.target.value; state.off.clear(); render(); } },
      places.map(p => H("option", { value: p, ...(p === most ? { selected: "" } : {}) }, `${p} (${count(p)})`)))), " ",
      H("label", {}, "Filter ", H("input", { type: "search", placeholder: "any words", oninput: e => { state.words = e.target.value; render(); } }))),
    H("p", { class: "chips" }), H("div", { class: "charts" }), H("div", { class: "numbers" }));
  render();
})();

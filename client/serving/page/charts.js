// Charts as SVG in the page's own colours, drawn anew when their place changes its width.

import { draw, make } from "./dom.js";

const observer = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    const width = Math.round(contentRect.width);
    if (width > 0 && target.drawnAt !== width) {
      target.drawnAt = width;
      target.replaceChildren(target.drawing(width));
    }
  }
});

/** A place in which `drawing(width)` gives an SVG. */
export function chart(drawing) {
  const place = make("div", { class: "chart" });
  place.drawing = drawing;
  observer.observe(place);
  return place;
}

function canvas(width, height, label, ...children) {
  return draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label }, ...children);
}

const text = (x, y, value, attributes = {}) => {
  const element = draw("text", { x, y, ...attributes });
  element.textContent = value;
  return element;
};

/** Round steps from 0 up to `most`, or to the first one beyond it: some five. */
function ticks(most, beyond = false) {
  const rough = most / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough * 0.999);
  const count = beyond ? Math.ceil(most / step - 1e-9) : Math.floor(most / step + 1e-9);
  return Array.from({ length: count + 1 }, (_, place) => Number((place * step).toPrecision(6)));
}

/** Parts of a score: what raises it to the right of the line, what lowers it to the left. */
export function scoreBar(parts, names, low, high) {
  return chart((width) => {
    const height = 10;
    const x = (value) => ((value - low) / (high - low || 1)) * width;
    const bars = [];
    let right = 0;
    let left = 0;
    for (const name of names) {
      const value = parts[name] ?? 0;
      if (!value) continue;
      const from = value > 0 ? right : left + value;
      if (value > 0) right += value;
      else left += value;
      bars.push(draw("rect", { x: x(from), y: 0, width: Math.max(0, x(from + Math.abs(value)) - x(from)), height, class: `part-${name}` }));
    }
    bars.push(draw("line", { x1: x(0), x2: x(0), y1: -1, y2: height + 1, class: "zero" }));
    const label = names.filter((name) => name in parts).map((name) => `${name} ${parts[name].toFixed(2)}`).join(", ");
    return canvas(width, height, label, ...bars);
  });
}

/** A bar of one value out of `most`. */
export function smallBar(value, most) {
  return chart((width) => {
    const svg = canvas(width, 6, "", draw("rect", { x: 0, y: 0, width: Math.max(2, (width * value) / most), height: 6, rx: 1, class: "small" }));
    svg.setAttribute("aria-hidden", "true");
    return svg;
  });
}

/** Lines over periods. `series`: [{name, values}], `labels` under the points. */
export function lineChart(label, series, labels) {
  return chart((width) => {
    const height = 210;
    const box = { left: 38, right: width - 10, top: 10, bottom: height - 26 };
    const steps = ticks(Math.max(...series.flatMap((one) => one.values), 0.1), true);
    const most = steps.at(-1);
    const x = (place) => labels.length === 1 ? (box.left + box.right) / 2 : box.left + ((box.right - box.left) * place) / (labels.length - 1);
    const y = (value) => box.bottom - ((box.bottom - box.top) * value) / most;
    const parts = steps.flatMap((value) => [
      draw("line", { x1: box.left, x2: box.right, y1: y(value), y2: y(value), class: "grid" }),
      text(box.left - 6, y(value) + 4, `${Math.round(value * 100)}%`, { "text-anchor": "end" }),
    ]);
    const shown = width < 360 ? [0, labels.length - 1] : [0, Math.floor((labels.length - 1) / 2), labels.length - 1];
    for (const place of new Set(shown)) {
      const anchor = labels.length === 1 ? "middle" : place === 0 ? "start" : place === labels.length - 1 ? "end" : "middle";
      parts.push(text(x(place), height - 8, labels[place], { "text-anchor": anchor }));
    }
    series.forEach(({ name, values }, number) => {
      const points = values.map((value, place) => `${x(place)},${y(value)}`).join(" ");
      parts.push(draw("polyline", { points, class: `line theme-${number}` }));
      for (const [place, value] of values.entries()) {
        const title = draw("title");
        title.textContent = `${name}, ${labels[place]}: ${Math.round(value * 100)}%`;
        parts.push(draw("circle", { cx: x(place), cy: y(value), r: 3, class: `dot theme-${number}` }, title));
      }
    });
    return canvas(width, height, label, ...parts);
  });
}

/** Epsilon as steps over releases, up to the budget's line. */
export function stepChart(label, points, budget) {
  return chart((width) => {
    const height = 240;
    const box = { left: 38, right: width - 12, top: 22, bottom: height - 34 };
    const most = Math.max(budget ?? 0, ...points.map((one) => one.epsilon)) * 1.06;
    const last = points.at(-1).releases;
    const x = (count) => box.left + ((box.right - box.left) * count) / last;
    const y = (value) => box.bottom - ((box.bottom - box.top) * value) / most;
    const parts = ticks(most).flatMap((value) => [
      draw("line", { x1: box.left, x2: box.right, y1: y(value), y2: y(value), class: "grid" }),
      text(box.left - 6, y(value) + 4, String(value), { "text-anchor": "end" }),
    ]);
    let path = `M${x(0)},${y(0)}`;
    for (const { releases, epsilon } of points) path += `H${x(releases)}V${y(epsilon)}`;
    parts.push(draw("path", { d: `${path}V${y(0)}Z`, class: "area" }), draw("path", { d: path, class: "steps" }));
    if (budget !== null) {
      parts.push(
        draw("line", { x1: box.left, x2: box.right, y1: y(budget), y2: y(budget), class: "budget" }),
        text(box.left + 4, y(budget) - 6, `budget ${budget}`, { class: "strong" }),
      );
    }
    for (const one of points) {
      const title = draw("title");
      title.textContent = `after ${one.releases}: ${one.epsilon.toFixed(3)} (${one.mechanism}, round ${one.round} of ${one.run})`;
      parts.push(draw("circle", { cx: x(one.releases), cy: y(one.epsilon), r: points.length > 60 ? 2 : 3, class: "step-dot" }, title));
    }
    parts.push(
      text(box.left, height - 12, "0", {}),
      text(box.right, height - 12, `${last} releases`, { "text-anchor": "end" }),
    );
    return canvas(width, height, label, ...parts);
  });
}

/** Horizontal bars with their values. `rows`: [{name, value, error, shown}]. */
export function barChart(label, rows) {
  return chart((width) => {
    const row = 46;
    const most = Math.max(...rows.map((one) => one.value + (one.error ?? 0)), 1e-9);
    const room = width - 78;
    const parts = rows.flatMap(({ name, value, error, shown, strong }, place) => {
      const y = place * row;
      const long = (room * value) / most;
      const found = [
        text(0, y + 14, name, {}),
        draw("rect", { x: 0, y: y + 20, width: Math.max(1, long), height: 12, rx: 2, class: strong ? "bar strong" : "bar" }),
      ];
      let end = long;
      if (error) {
        const [from, to] = [(room * Math.max(0, value - error)) / most, (room * (value + error)) / most];
        end = to;
        found.push(draw("path", { d: `M${from},${y + 26}H${to}M${from},${y + 22}v8M${to},${y + 22}v8`, class: "whisker" }));
      }
      found.push(text(end + 8, y + 30, shown, { class: "strong" }));
      return found;
    });
    return canvas(width, rows.length * row, label, ...parts);
  });
}

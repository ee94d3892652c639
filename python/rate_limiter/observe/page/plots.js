"use strict";
// Plots as SVG. Each function replaces what an <svg> shows; none of them keeps state.

const SVG = "http://www.w3.org/2000/svg";

function svgElement(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// The smallest of 1, 2, 5, 10, 20, ... that is not below a number.
function niceMaximum(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= value * 0.999);
}

// Points of a line as runs without gaps: a value of null is a gap.
function runsOf(values, x, y) {
  const runs = [[]];
  values.forEach((value, i) => {
    if (value === null) runs.push([]);
    else runs[runs.length - 1].push([x(i), y(value)]);
  });
  return runs.filter((run) => run.length);
}

function pathOf(points) {
  return points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
}

function lineAndArea(values, name, x, y, bottom) {
  return runsOf(values, x, y).flatMap((run) => {
    const ends = [[run[run.length - 1][0], bottom], [run[0][0], bottom]];
    return [
      svgElement("path", { class: `area ${name}`, d: `${pathOf([...run, ...ends])}Z` }),
      svgElement("path", { class: `line ${name}`, d: pathOf(run) }),
    ];
  });
}

// Two lines over time, with axes.
//   series: {allowed: [...], denied: [...]}: rates, null for a gap, the newest last
//   minutes: the time that they span
//   cursor: index of the values to mark, or null
function drawTraffic(svg, series, minutes, format, cursor) {
  const { width, height } = svg.getBoundingClientRect();
  const left = 44, top = 8, right = width - 4, bottom = height - 22;
  const count = series.allowed.length;
  const most = niceMaximum(Math.max(0, ...series.allowed, ...series.denied));
  const x = (i) => left + ((right - left) * i) / (count - 1);
  const y = (value) => bottom - ((bottom - top) * value) / most;
  const parts = [];
  for (const share of [0, 0.5, 1]) {
    const at = Math.round(y(share * most));
    parts.push(svgElement("line", { class: "grid", x1: left, x2: right, y1: at, y2: at }));
    const place = { class: "axis", x: left - 8, y: at + 4, "text-anchor": "end" };
    parts.push(svgElement("text", place, format(share * most)));
  }
  for (let ago = minutes; ago >= 0; ago -= 5) {
    const at = right - ((right - left) * ago) / minutes;
    const anchor = ago === minutes ? "start" : ago === 0 ? "end" : "middle";
    const place = { class: "axis", x: at, y: height - 4, "text-anchor": anchor };
    const label = width < 480 ? `−${ago} min` : `${ago} min ago`;
    parts.push(svgElement("text", place, ago ? label : "now"));
  }
  parts.push(...lineAndArea(series.allowed, "allowed", x, y, bottom));
  parts.push(...lineAndArea(series.denied, "denied", x, y, bottom));
  if (cursor !== null) {
    const at = Math.round(x(cursor));
    parts.push(svgElement("line", { class: "cursor", x1: at, x2: at, y1: top, y2: bottom }));
  }
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(...parts);
}

// Return the index of the values at a position of the pointer in a plot of drawTraffic().
function indexAt(svg, clientX, count) {
  const box = svg.getBoundingClientRect();
  const share = (clientX - box.left - 44) / (box.width - 48);
  return Math.round(Math.min(1, Math.max(0, share)) * (count - 1));
}

// Two lines without axes, for a row of a table.
function drawSpark(svg, series) {
  const width = 144, height = 20;
  const most = Math.max(0, ...series.allowed, ...series.denied) || 1;
  const x = (i) => (width * i) / (series.allowed.length - 1);
  const y = (value) => height - 1 - ((height - 3) * value) / most;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(
    ...lineAndArea(series.allowed, "allowed", x, y, height),
    ...lineAndArea(series.denied, "denied", x, y, height),
  );
}

// Columns with a label below, where there is room for one.
function drawColumns(svg, counts, labels) {
  const { width, height } = svg.getBoundingClientRect();
  const top = 8, bottom = height - 22;
  const most = Math.max(1, ...counts);
  const step = width / counts.length;
  const parts = [svgElement("line", { class: "grid", x1: 0, x2: width, y1: bottom, y2: bottom })];
  const every = Math.ceil(56 / step);
  counts.forEach((count, i) => {
    // A column of one decision among a million must still be visible.
    const tall = count ? Math.max(1.5, ((bottom - top) * count) / most) : 0;
    const place = { class: "bar", x: (i + 0.15) * step, width: 0.7 * step, y: bottom - tall, height: tall };
    parts.push(svgElement("rect", place));
    if (i % every === 0) {
      const below = { class: "axis", x: (i + 0.5) * step, y: height - 4, "text-anchor": "middle" };
      parts.push(svgElement("text", below, labels[i]));
    }
  });
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(...parts);
}

// Line charts and histograms on canvases.

import { formatClock, formatMs, formatRate } from "./format.js";
import { SAMPLES } from "./history.js";
import { setAttribute, setText } from "./dom.js";
import { state } from "./state.js";

/** Seconds in one point of a sparkline. */
const BUCKET = 15;

/** A sparkline moves by one point every 15 s; redrawing it each second would show nothing new. */
const SPARKLINE_REDRAW_MS = 4500;

/** In a chart a second is less than half a pixel. */
const CHART_REDRAW_MS = 1900;

const SPARKLINE = { width: 72, height: 18 };

export const colors = {};

/** Reads the colours of the current theme from the stylesheet. */
export function loadColors() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["line", "area", "grid", "quiet", "text", "bar", "warn"]) {
    colors[name] = style.getPropertyValue(`--ink-${name}`).trim();
  }
}

/** Makes the next change redraw all charts, after the theme or the window's size changed. */
export function invalidateCharts() {
  loadColors();
  for (const canvas of document.querySelectorAll("canvas")) {
    canvas.fingerprint = canvas.values = null;
  }
}

/** An empty drawing context in CSS pixels. */
export function clearedContext(canvas, width, height) {
  const scale = devicePixelRatio || 1;
  const [pixelWidth, pixelHeight] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== pixelWidth || canvas.height !== pixelHeight) {
    canvas.width = pixelWidth;
    canvas.height = pixelHeight;
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/**
 * The maximum of each 15 s. The limits between points stay at whole quarter minutes, so that the
 * line does not flicker.
 */
function downsample(values, end) {
  const points = new Array(SAMPLES / BUCKET).fill(null);
  const last = Math.floor(end / BUCKET);
  for (let i = 0; i < values.length; i++) {
    const bucket = Math.floor((end - values.length + 1 + i) / BUCKET);
    const at = points.length - 1 - last + bucket;
    if (at >= 0 && values[i] != null && !(points[at] > values[i])) points[at] = values[i];
  }
  return points;
}

/** Draws a line with the area below it, interrupted where values are missing. */
function drawLine(context, points, x, y, bottom) {
  context.lineWidth = 1.25;
  context.lineJoin = "round";
  context.strokeStyle = colors.line;
  context.fillStyle = colors.area;
  for (let i = 0; i < points.length; i++) {
    if (points[i] == null) continue;
    const from = i;
    context.beginPath();
    for (; i < points.length && points[i] != null; i++) context.lineTo(x(i), y(points[i]));
    if (i - from === 1) context.lineTo(x(from) + 1, y(points[from]));
    context.stroke();
    context.lineTo(x(i - 1), bottom);
    context.lineTo(x(from), bottom);
    context.fill();
  }
}

/** Draws the chart of a table row. Its scale ends at `minTop` or at the maximum. */
export function drawSparkline(canvas, values, end, minTop) {
  const { width, height } = SPARKLINE;
  const now = performance.now();
  if (canvas.values === values && now - canvas.drawnAt < SPARKLINE_REDRAW_MS) return;
  canvas.values = values;
  canvas.drawnAt = now;
  const points = downsample(values, end);
  const fingerprint = points.join();
  if (canvas.fingerprint === fingerprint) return;
  canvas.fingerprint = fingerprint;
  const context = clearedContext(canvas, width, height);
  const top = Math.max(minTop, ...points);
  const x = (i) => 1 + (i * (width - 2)) / (points.length - 1);
  const y = (value) => height - 1 - (value / top) * (height - 3);
  drawLine(context, points, x, y, height);
}

/** Draws a chart of the last 15 minutes with its caption. `figure.hover` is the pointer's place. */
export function drawChart(figure, values) {
  const canvas = figure.querySelector("canvas");
  const isDuration = figure.dataset.series === "handler_p99_ms";
  const format = isDuration ? formatMs : formatRate;
  const points = new Array(SAMPLES - values.length).fill(null).concat(values);
  const hovered = figure.hover == null ? null : Math.round(figure.hover * (SAMPLES - 1));
  const known = values.filter((value) => value != null);
  const maximum = known.length ? format(Math.max(...known)) : "–";
  setText(figure.querySelector("output"), chartCaption(points, hovered, maximum, format));
  setAttribute(canvas, "aria-label", `Last 15 minutes, maximum ${maximum}`);
  const { clientWidth: width, clientHeight: height } = canvas;
  const now = performance.now();
  const unchanged = canvas.values === values && canvas.drawnWidth === width;
  const isRecent = unchanged && now - canvas.drawnAt < CHART_REDRAW_MS;
  if (!width || (isRecent && figure.hover === canvas.hover)) return;
  Object.assign(canvas, { values, drawnWidth: width, drawnAt: now, hover: figure.hover });
  const context = clearedContext(canvas, width, height);
  const top = Math.max(isDuration ? 0.01 : 1, ...values) * 1.08;
  const x = (i) => (i * width) / (SAMPLES - 1);
  const y = (value) => height - 1 - (value / top) * (height - 4);
  drawGrid(context, width, height);
  drawLine(context, points, x, y, height);
  if (hovered != null) drawHover(context, x(hovered), points[hovered], y, height);
}

function chartCaption(points, hovered, maximum, format) {
  if (hovered != null) {
    const time = formatClock(state.updatedAt - (SAMPLES - 1 - hovered) * 1000);
    return `${format(points[hovered])} at ${time}`;
  }
  if (maximum === "–") return "no messages";
  const current = points.at(-1);
  return `${current == null ? "" : `${format(current)}, `}maximum ${maximum}`;
}

/** A line every five minutes. */
function drawGrid(context, width, height) {
  context.fillStyle = colors.grid;
  for (let minute = 0; minute <= 15; minute += 5) {
    context.fillRect(Math.min(width - 1, (minute * width) / 15), 0, 1, height);
  }
  context.fillRect(0, height - 1, width, 1);
}

function drawHover(context, x, value, y, height) {
  context.fillStyle = colors.quiet;
  context.fillRect(x, 0, 1, height);
  if (value == null) return;
  context.fillStyle = colors.text;
  context.beginPath();
  context.arc(x, y(value), 2.5, 0, 2 * Math.PI);
  context.fill();
}

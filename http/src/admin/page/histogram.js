// Histograms of durations, with a logarithmic axis.

import { clearedContext, colors } from "./charts.js";
import { setAttribute } from "./dom.js";
import { formatMs } from "./format.js";

/** The height above the bars, for the labels of quantiles. */
const TOP = 18;

/** The height below the bars, for the labels of the axis. */
const AXIS = 18;

/** Draws a histogram of durations with its quantiles. */
export function drawHistogram(canvas, buckets, p50, p99) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const fingerprint = JSON.stringify([buckets, p50, p99, width]);
  if (!width || canvas.fingerprint === fingerprint) return;
  canvas.fingerprint = fingerprint;
  const context = clearedContext(canvas, width, height);
  context.font = `11px ${getComputedStyle(canvas).fontFamily}`;
  context.textBaseline = "middle";
  const used = buckets.flatMap(({ count }, i) => (count > 0 ? [i] : []));
  const label = used.length
    ? `p50 ${formatMs(p50)}, p99 ${formatMs(p99)}`
    : "No messages handled yet";
  setAttribute(canvas, "aria-label", label);
  if (!used.length) {
    context.fillStyle = colors.quiet;
    context.fillText("No messages handled yet.", 0, height / 2);
    return;
  }
  const axis = logarithmicAxis(buckets, used, width);
  drawBars(context, buckets, axis, height);
  drawAxis(context, axis, width, height);
  const areClose = p50 != null && p99 != null && axis.x(p99) - axis.x(p50) < 60;
  const bounds = { width, bottom: height - AXIS };
  drawQuantile(context, axis, "p50", p50, colors.text, areClose ? "right" : "left", bounds);
  drawQuantile(context, axis, "p99", p99, colors.warn, "left", bounds);
}

/** The range of the used buckets and one more on each side. The last bucket has no upper limit. */
function logarithmicAxis(buckets, used, width) {
  const limits = buckets.map(({ up_to_ms: limit }, i) => limit ?? buckets[i - 1].up_to_ms * 4);
  const first = Math.max(0, used[0] - 1);
  const last = Math.min(buckets.length - 1, used.at(-1) + 1);
  const low = Math.log(first > 0 ? limits[first - 1] : limits[0] / 2);
  const high = Math.log(limits[last]);
  const x = (ms) => {
    const share = (Math.log(ms) - low) / (high - low);
    return Math.min(width, Math.max(0, share * width));
  };
  return { limits, first, last, low, high, x };
}

function drawBars(context, buckets, { limits, first, last, x }, height) {
  const bottom = height - AXIS;
  const maximum = Math.max(...buckets.map(({ count }) => count));
  context.fillStyle = colors.bar;
  for (let i = first; i <= last; i++) {
    const { count } = buckets[i];
    const left = i > first ? x(limits[i - 1]) : 0;
    const barHeight = count ? Math.max(1.5, (count / maximum) * (bottom - TOP)) : 0;
    const barWidth = Math.max(1, x(limits[i]) - left - 1);
    context.fillRect(left + 0.5, bottom - barHeight, barWidth, barHeight);
  }
}

/** A label at each power of ten. */
function drawAxis(context, { low, high, x }, width, height) {
  context.fillStyle = colors.grid;
  context.fillRect(0, height - AXIS, width, 1);
  context.fillStyle = colors.quiet;
  context.textAlign = "center";
  for (let power = Math.ceil(low / Math.LN10); power <= high / Math.LN10; power++) {
    const at = x(10 ** power);
    const label = formatMs(10 ** power).replace(".00", "").replace(".0", "");
    if (at > 18 && at < width - 18) context.fillText(label, at, height - 7);
  }
}

function drawQuantile(context, axis, name, ms, color, align, { width, bottom }) {
  if (ms == null) return;
  const text = `${name} ${formatMs(ms)}`;
  const at = axis.x(Math.max(ms, Number.MIN_VALUE));
  context.fillStyle = color;
  context.fillRect(at, TOP - 2, 1, bottom - TOP + 2);
  context.textAlign = align;
  const textWidth = context.measureText(text).width;
  const textAt = align === "right" ? Math.max(at, textWidth) : Math.min(at, width - textWidth);
  context.fillText(text, textAt, 7);
}

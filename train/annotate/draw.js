// Canvases on one axis of seconds. Each is drawn anew from what is known; the head alone moves.

const LIGHT = ["#2563eb", "#c2410c", "#047857", "#be185d", "#6d28d9", "#0e7490", "#a16207", "#4d7c0f", "#b91c1c", "#4338ca"];
const DARK = ["#60a5fa", "#fb923c", "#34d399", "#f472b6", "#a78bfa", "#22d3ee", "#facc15", "#a3e635", "#f87171", "#818cf8"];
const dark = matchMedia("(prefers-color-scheme: dark)");

/** All class names there are; those that are most of the page come first, so that colours differ. */
const names = [...new Set([...eventsAt(data, mean), ...truth].map((one) => one.category).concat(data.classes))];

/** @param {string} category */
function colour(category) {
  if (!names.includes(category)) names.push(category);
  const palette = dark.matches ? DARK : LIGHT;
  return palette[names.indexOf(category) % palette.length];
}

/** @type {Record<string, string>} */
let theme = {};

function readTheme() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["ink", "soft", "line", "head", "accent", "track"]) {
    theme[name] = style.getPropertyValue(`--${name}`).trim();
  }
}

/**
 * A cleared canvas in CSS pixels, as sharp as the screen; null where it has no room.
 * @param {HTMLCanvasElement} canvas
 */
function cleared(canvas) {
  const width = canvas.clientWidth, height = canvas.clientHeight;
  const scale = Math.min(devicePixelRatio || 1, 2);
  const brush = canvas.getContext("2d");
  if (!width || !height || !brush) return null;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  brush.scale(scale, scale);
  return { brush, width, height };
}

/** @param {number} time @param {number} width */
function pixel(time, width) {
  return ((time - state.from) / (state.to - state.from)) * width;
}

/** What was not looked at, shaded. @param {CanvasRenderingContext2D} brush @param {number} width @param {number} height */
function drawUnseen(brush, width, height) {
  brush.strokeStyle = theme.soft;
  brush.globalAlpha = 0.35;
  for (const [start, end] of data.unseen) {
    const left = Math.max(0, pixel(start, width)), right = Math.min(width, pixel(end, width));
    if (right <= left) continue;
    brush.save();
    brush.beginPath();
    brush.rect(left, 0, right - left, height);
    brush.clip();
    brush.beginPath();
    for (let at = left - height; at < right; at += 8) {
      brush.moveTo(at, height);
      brush.lineTo(at + height, 0);
    }
    brush.stroke();
    brush.restore();
  }
  brush.globalAlpha = 1;
}

const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];

function drawRuler() {
  const area = cleared(byId("ruler"));
  if (!area) return;
  const { brush, width, height } = area;
  const step = STEPS.find((one) => (one / (state.to - state.from)) * width >= 72) ?? 14400;
  brush.fillStyle = theme.soft;
  brush.font = "12px system-ui, sans-serif";
  for (let k = Math.ceil(state.from / step); k * step <= state.to; k++) {
    const at = pixel(k * step, width);
    brush.fillRect(Math.round(at), height - 6, 1, 6);
    const text = written(k * step, step < 1 ? 1 : 0), room = brush.measureText(text).width;
    brush.fillText(text, Math.min(Math.max(at - room / 2, 2), width - room - 2), height - 9);
  }
  drawUnseen(brush, width, height);
}

/** Pictures that were asked for, by their addresses. @type {Map<string, HTMLImageElement>} */
const pictures = new Map();

/** A picture, or null until it is decoded. @param {string} address */
function picture(address) {
  let image = pictures.get(address);
  if (!image) {
    image = new Image();
    image.onload = refresh;
    image.src = address;
    pictures.set(address, image);
  }
  return image.complete && image.naturalWidth ? image : null;
}

/** The frame whose time is nearest. @param {number} time */
function frameAt(time) {
  let low = 0, high = data.frames.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (data.frames[middle].time + data.frames[middle + 1].time < 2 * time) low = middle + 1;
    else high = middle;
  }
  return data.frames[low];
}

function drawFrames() {
  const area = data.frames.length ? cleared(byId("frames")) : null;
  if (!area) return;
  const { brush, width, height } = area;
  const wide = ((state.to - state.from) * height) / width; // seconds that a picture stands for
  for (let k = Math.floor(state.from / wide); k * wide < Math.min(state.to, data.length); k++) {
    const image = picture(`data:image/jpeg;base64,${frameAt((k + 0.5) * wide).jpeg}`);
    if (image) brush.drawImage(image, pixel(k * wide, width), 0, height - 1, height);
  }
  drawUnseen(brush, width, height);
}

function drawSound() {
  const area = data.sound.length ? cleared(byId("sound")) : null;
  if (!area) return;
  const { brush, width, height } = area;
  for (const tile of data.sound) {
    if (tile.end < state.from || tile.start > state.to) continue;
    const image = picture(`data:image/png;base64,${tile.png}`);
    const left = Math.round(pixel(tile.start, width));
    if (image) brush.drawImage(image, left, 0, Math.round(pixel(tile.end, width)) - left, height);
  }
  drawUnseen(brush, width, height);
}

/** Curves that were decoded, by class. @type {Map<string, Uint8Array>} */
const curves = new Map();

/** The probability of a class in each step, in 255ths; none where it is never worth drawing. @param {string} category */
function curveOf(category) {
  let curve = curves.get(category);
  if (!curve) {
    const text = atob(data.curves.of[String(data.classes.indexOf(category))] ?? "");
    curve = Uint8Array.from(text, (one) => one.charCodeAt(0));
    curves.set(category, curve);
  }
  return curve;
}

/**
 * Trace a class's probability: one point a pixel, the largest of all that lie in it.
 * @param {CanvasRenderingContext2D} brush @param {Uint8Array} curve @param {number} width @param {number} height
 */
function traceCurve(brush, curve, width, height) {
  const step = data.curves.step, scale = (state.to - state.from) / width / step;
  brush.beginPath();
  brush.moveTo(0, height);
  for (let at = 0; at <= width; at++) {
    const place = state.from / step + at * scale - 0.5;
    if (place > curve.length) break;
    let value = 0;
    if (scale > 1) {
      const stop = Math.min(curve.length, Math.ceil(place + scale));
      for (let k = Math.max(0, Math.floor(place)); k < stop; k++) value = Math.max(value, curve[k]);
    } else {
      const k = Math.floor(place), part = place - k;
      const before = curve[Math.max(k, 0)] ?? 0, after = curve[Math.min(k + 1, curve.length - 1)] ?? 0;
      value = before * (1 - part) + after * part;
    }
    brush.lineTo(at, height - (value / 255) * (height - 3));
  }
}

const TRUTH_PX = 7;

/** @param {Lane} lane */
function drawLane(lane) {
  const area = cleared(lane.canvas);
  if (!area || state.hidden.has(lane.name)) return;
  const { brush, width, height } = area;
  const room = truth.length ? height - TRUTH_PX - 3 : height, tint = colour(lane.name);
  const curve = curveOf(lane.name);
  if (curve.length) {
    traceCurve(brush, curve, width, room);
    brush.strokeStyle = tint;
    brush.lineWidth = 1.25;
    brush.stroke();
    brush.lineTo(Math.min(width, pixel(curve.length * data.curves.step, width)), room);
    brush.lineTo(0, room);
    brush.globalAlpha = 0.16;
    brush.fillStyle = tint;
    brush.fill();
    brush.globalAlpha = 1;
    drawThreshold(brush, lane.name, width, room);
  }
  for (const event of state.events) if (event.category === lane.name) drawEvent(brush, event, width, room);
  for (const one of truth) {
    if (one.category !== lane.name) continue;
    const left = pixel(one.start, width);
    brush.fillStyle = theme.soft;
    brush.beginPath();
    brush.roundRect(left, height - TRUTH_PX, Math.max(2, pixel(one.end, width) - left), TRUTH_PX - 1, 2);
    brush.fill();
  }
  drawUnseen(brush, width, height);
}

/** @param {CanvasRenderingContext2D} brush @param {string} category @param {number} width @param {number} height */
function drawThreshold(brush, category, width, height) {
  const level = data.thresholds[data.classes.indexOf(category)] + state.threshold - mean;
  if (!(level > 0 && level < 1)) return;
  brush.strokeStyle = theme.soft;
  brush.lineWidth = 1;
  brush.globalAlpha = 0.6;
  brush.setLineDash([3, 4]);
  brush.beginPath();
  brush.moveTo(0, height - level * (height - 3));
  brush.lineTo(width, height - level * (height - 3));
  brush.stroke();
  brush.setLineDash([]);
  brush.globalAlpha = 1;
}

/** @param {CanvasRenderingContext2D} brush @param {Span} event @param {number} width @param {number} height */
function drawEvent(brush, event, width, height) {
  const left = pixel(event.start, width), wide = Math.max(3, pixel(event.end, width) - left);
  if (left > width || left + wide < 0) return;
  const chosen = event === state.selected, tint = colour(event.category);
  brush.beginPath();
  brush.roundRect(left + 0.5, 1.5, wide - 1, height - 3, Math.min(6, wide / 2));
  brush.globalAlpha = chosen ? 0.42 : 0.24;
  brush.fillStyle = tint;
  brush.fill();
  brush.globalAlpha = 1;
  brush.strokeStyle = chosen ? theme.ink : tint;
  brush.lineWidth = chosen ? 2 : 1.5;
  brush.stroke();
  if (chosen && wide > 16) {
    brush.fillStyle = theme.ink;
    for (const at of [left + 4, left + wide - 6]) brush.fillRect(at, height / 2 - 6, 2, 12);
  }
  const text = percent(event.confidence);
  brush.font = "600 11px system-ui, sans-serif";
  if (wide > brush.measureText(text).width + 22) {
    brush.fillStyle = theme.ink;
    brush.fillText(text, Math.max(left, 0) + 11, 15);
  }
}

/** All of the recording, small: what is found where, and the part that is shown below. @param {Lane[]} lanes */
function drawOverview(lanes) {
  const area = cleared(byId("overview"));
  if (!area) return;
  const { brush, width, height } = area;
  const rows = lanes.filter((lane) => !state.hidden.has(lane.name)).map((lane) => lane.name);
  const tall = (height - 8) / Math.max(rows.length, 4);
  for (const event of state.events) {
    const row = rows.indexOf(event.category);
    if (row < 0) continue;
    const left = (event.start / data.length) * width;
    brush.fillStyle = colour(event.category);
    brush.fillRect(left, 4 + row * tall, Math.max(2, ((event.end - event.start) / data.length) * width), Math.max(1.5, tall - 1));
  }
  const left = (state.from / data.length) * width, right = (state.to / data.length) * width;
  brush.globalAlpha = 0.1;
  brush.fillStyle = theme.ink;
  brush.fillRect(0, 0, left, height);
  brush.fillRect(right, 0, width - right, height);
  brush.globalAlpha = 1;
  brush.strokeStyle = theme.accent;
  brush.lineWidth = 2;
  brush.beginPath();
  brush.roundRect(left + 1, 1, Math.max(4, right - left - 2), height - 2, 5);
  brush.stroke();
  brush.fillStyle = theme.head;
  brush.fillRect((state.now / data.length) * width - 1, 0, 2, height);
}

function drawHead() {
  const canvas = byId("ruler"), head = byId("head");
  const at = pixel(state.now, canvas.clientWidth);
  head.hidden = at < 0 || at > canvas.clientWidth;
  head.style.transform = `translateX(${canvas.offsetLeft + at}px)`;
  byId("clock").replaceChildren(written(state.now), made("span", ` / ${written(data.length, 0)}`, { class: "soft" }));
  markPlaying();
}

// Pointers and keys.

/** Keys, what is told of them, and what they do. @type {[string[], string, (event: KeyboardEvent) => void][]} */
const KEYS = [
  [[" "], "play or pause", togglePlay],
  [["ArrowLeft"], "a second back (with Shift: a tenth)", (event) => seek(state.now - (event.shiftKey ? 0.1 : 1))],
  [["ArrowRight"], "a second on (with Shift: a tenth)", (event) => seek(state.now + (event.shiftKey ? 0.1 : 1))],
  [["["], "previous event", () => stepEvent(-1)],
  [["]"], "next event", () => stepEvent(1)],
  [["l"], "repeat the chosen event", toggleLoop],
  [["Home"], "to the beginning", () => seek(0)],
  [["End"], "to the end", () => seek(data.length)],
  [["+", "="], "zoom in", () => byId("in").click()],
  [["-"], "zoom out", () => byId("out").click()],
  [["0"], "show all", () => byId("all").click()],
  [["n"], "new event here", addEvent],
  [["Delete", "Backspace"], "delete the chosen event", deleteEvent],
  [["s"], "the chosen event starts here", () => moveEdge("start", state.now)],
  [["e"], "the chosen event ends here", () => moveEdge("end", state.now)],
  [[","], "start a tenth earlier", () => nudge("start", -0.1)],
  [["."], "start a tenth later", () => nudge("start", 0.1)],
  [["<"], "end a tenth earlier", () => nudge("end", -0.1)],
  [[">"], "end a tenth later", () => nudge("end", 0.1)],
  [["u"], "undo the last correction", undo],
  [["m"], "sound on or off", toggleMute],
  [["f"], "full screen", toggleFull],
  [["Escape"], "choose nothing", () => select(null)],
];
const SIGNS = /** @type {Record<string, string>} */ ({ " ": "space", ArrowLeft: "←", ArrowRight: "→", Delete: "Del" });

/** @param {"start" | "end"} edge @param {number} by */
function nudge(edge, by) {
  moveEdge(edge, (state.selected?.[edge] ?? 0) + by);
}

/** Whether a key belongs to the field or button that has the focus. @param {KeyboardEvent} event */
function taken(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  if (target.matches("select, input:not([type=checkbox])")) return event.key !== "Escape";
  return event.key === " " && target.matches("button, summary, input, a");
}

/** @param {KeyboardEvent} event */
function onKey(event) {
  if (taken(event) || event.altKey) return;
  const undoing = (event.ctrlKey || event.metaKey) && event.key === "z";
  if ((event.ctrlKey || event.metaKey) && !undoing) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const found = undoing ? undo : KEYS.find(([keys]) => keys.includes(key))?.[2];
  if (!found) return;
  event.preventDefault();
  found(event);
}

/** @typedef {{event: Span, edge: "start" | "end" | null}} Hit */

/** The event of a lane under a pointer, and the end that is within reach. @param {Lane} lane @param {PointerEvent} pointer @returns {Hit | null} */
function hitAt(lane, pointer) {
  const place = lane.canvas.getBoundingClientRect(), at = pointer.clientX - place.left;
  const reach = pointer.pointerType === "touch" ? 14 : 6;
  const mine = state.events.filter((event) => event.category === lane.name);
  for (const event of mine.sort((a, b) => Number(b === state.selected) - Number(a === state.selected))) {
    const left = pixel(event.start, place.width), right = pixel(event.end, place.width);
    if (at < left - reach || at > right + reach) continue;
    const wide = right - left > 2 * reach || event === state.selected;
    const edge = Math.abs(at - left) <= reach ? "start" : Math.abs(at - right) <= reach ? "end" : null;
    return { event, edge: wide ? edge : null };
  }
  return null;
}

/** What is dragged: an end of an event, or the head. @type {{canvas: HTMLCanvasElement, hit: Hit | null, x: number, moved: boolean} | null} */
let drag = null;

/** @param {HTMLCanvasElement} canvas @param {PointerEvent} pointer */
function timeAt(canvas, pointer) {
  const place = canvas.getBoundingClientRect();
  return within(state.from + ((pointer.clientX - place.left) / place.width) * (state.to - state.from));
}

/** The lane of a canvas. @param {EventTarget | null} canvas */
function laneOf(canvas) {
  return lanes.find((one) => one.canvas === canvas);
}

/** @param {PointerEvent} pointer */
function onDown(pointer) {
  const canvas = pointer.target;
  if (!(canvas instanceof HTMLCanvasElement) || pointer.button) return;
  const lane = laneOf(canvas), hit = lane ? hitAt(lane, pointer) : null;
  drag = { canvas, hit, x: pointer.clientX, moved: false };
  byId("tracks").setPointerCapture(pointer.pointerId);
  if (hit) select(hit.event);
  else seek(timeAt(canvas, pointer));
}

/** Where a dragged end would be now, before it is let go. @param {PointerEvent} pointer */
function draggedEdge(pointer) {
  if (!drag?.hit?.edge) return null;
  const event = drag.hit.event, time = timeAt(drag.canvas, pointer);
  return drag.hit.edge === "start" ? Math.min(time, event.end - LEAST_S) : Math.max(time, event.start + LEAST_S);
}

/** @param {PointerEvent} pointer */
function onMove(pointer) {
  if (!drag) {
    const lane = laneOf(pointer.target), hit = lane ? hitAt(lane, pointer) : null;
    if (lane) lane.canvas.style.cursor = hit ? (hit.edge ? "ew-resize" : "pointer") : "crosshair";
    return;
  }
  drag.moved ||= Math.abs(pointer.clientX - drag.x) > 3;
  if (!drag.moved) return;
  const edge = draggedEdge(pointer);
  seek(edge ?? timeAt(drag.canvas, pointer));
}

/** @param {PointerEvent} pointer */
function onUp(pointer) {
  if (!drag) return;
  const { hit, moved } = drag, edge = draggedEdge(pointer);
  drag = null;
  if (hit?.edge && moved && edge !== null) moveEdge(hit.edge, Math.round(edge * 100) / 100);
  else if (hit && !moved) choose(hit.event);
}

/** @param {WheelEvent} wheel */
function onWheel(wheel) {
  const span = state.to - state.from, canvas = byId("ruler"), place = canvas.getBoundingClientRect();
  const around = state.from + ((wheel.clientX - place.left) / place.width) * span;
  const sideways = wheel.shiftKey ? wheel.deltaY || wheel.deltaX : Math.abs(wheel.deltaX) > Math.abs(wheel.deltaY) ? wheel.deltaX : 0;
  if (wheel.ctrlKey || wheel.metaKey) zoom(span * Math.exp(wheel.deltaY / 300), around);
  else if (sideways) show(state.from + (sideways / place.width) * span, span);
  else return;
  wheel.preventDefault();
}

/** Show the part around a place of the overview. @param {PointerEvent} pointer */
function onOverview(pointer) {
  if (pointer.type === "pointermove" && !pointer.buttons) return;
  const place = byId("overview").getBoundingClientRect(), span = state.to - state.from;
  const time = within(((pointer.clientX - place.left) / place.width) * data.length);
  if (span < data.length) show(time - span / 2, span);
  else seek(time);
}

function startHands() {
  const tracks = byId("tracks"), overview = byId("overview");
  tracks.addEventListener("pointerdown", onDown);
  tracks.addEventListener("pointermove", onMove);
  tracks.addEventListener("pointerup", onUp);
  tracks.addEventListener("pointercancel", () => (drag = null));
  tracks.addEventListener("wheel", onWheel, { passive: false });
  for (const what of /** @type {const} */ (["pointerdown", "pointermove"])) overview.addEventListener(what, onOverview);
  document.addEventListener("keydown", onKey);
  for (const [[key], text] of KEYS) {
    const term = made("dt"), sign = made("kbd", SIGNS[key] ?? key.toUpperCase());
    term.append(sign);
    byId("keys").append(term, made("dd", text));
  }
}

readTheme();
state.events = eventsAt(data, mean);
startTimeline();
startEditor();
startPlayer();
startHands();
refreshAll();
seek(moment() ?? 0);

// What the page knows, and what changes in it. Times are in seconds of the recording.

/** @typedef {{category: string, start: number, end: number, confidence: number}} Span */
/** @typedef {{time: number, jpeg: string}} Frame */
/** @typedef {{start: number, end: number, png: string}} Tile */
/**
 * @typedef {{
 *   recording: string, listed: string, media: {name: string, address: string | null},
 *   length: number, unseen: [number, number][], classes: string[], thresholds: number[], least: number,
 *   candidates: [number, number, number, number][], truth: [string, number, number][] | null,
 *   curves: {step: number, of: Record<string, string>}, frames: Frame[], sound: Tile[],
 *   facts: [string, string][],
 * }} Data
 */

/** @type {<T extends HTMLElement>(id: string) => T} */
const byId = (id) => /** @type {any} */ (document.getElementById(id));

/** @type {Data} */
const data = JSON.parse(byId("data").textContent ?? "");

/** What is true, where that is known. @type {Span[]} */
const truth = (data.truth ?? []).map(([category, start, end]) => ({
  category, start, end, confidence: 1,
}));

const mean = data.thresholds.reduce((sum, one) => sum + one, 0) / data.thresholds.length;

const state = {
  now: 0,
  /** What of the recording the timeline shows. */
  from: 0,
  to: data.length,
  /** Mean over the classes; each class keeps its distance from it. */
  threshold: mean,
  /** @type {Set<string>} */
  hidden: new Set(),
  /** @type {Span[]} in the order of their starts */
  events: [],
  /** @type {Span | null} */
  selected: null,
  looping: false,
  /** Lists before each correction. @type {Span[][]} */
  before: [],
  saved: true,
};

/**
 * The events that a threshold leaves: as the run reads them off its timeline, where times don't
 * depend on the threshold. `threshold` is the mean of those of the classes.
 * @param {Pick<Data, "candidates" | "thresholds" | "classes">} from
 * @param {number} threshold
 * @returns {Span[]}
 */
function eventsAt(from, threshold) {
  const all = from.thresholds;
  const chosen = all.reduce((sum, one) => sum + one, 0) / all.length;
  return from.candidates
    .filter(([category, , , sure]) => sure >= all[category] + (threshold - chosen))
    .map(([category, start, end, confidence]) => ({
      category: from.classes[category], start, end, confidence,
    }));
}

/** Events of classes that are shown. */
function shownEvents() {
  return state.events.filter((event) => !state.hidden.has(event.category));
}

/** @param {Span[]} events */
function inOrder(events) {
  return [...events].sort((a, b) => a.start - b.start || a.end - b.end);
}

/** @param {number} time */
function within(time) {
  return Math.min(Math.max(time, 0), data.length);
}

/** Seconds as people write them: 1:02.3. @param {number} time @param {number} [decimals] */
function written(time, decimals = 1) {
  const scale = 10 ** decimals;
  const whole = Math.round(time * scale) / scale;
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  const seconds = (whole % 60).toFixed(decimals).padStart(decimals ? decimals + 3 : 2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${seconds}` : `${minutes}:${seconds}`;
}

/** @param {number} share */
function percent(share) {
  return `${Math.round(100 * share)} %`;
}

/** @param {number} count @param {string} what */
function counted(count, what) {
  return `${count.toLocaleString("en")} ${what}${count === 1 ? "" : what.endsWith("s") ? "es" : "s"}`;
}

let quiet = 0;

/** Tell a person, and whoever listens to the page. @param {string} text */
function tell(text) {
  const status = byId("status");
  status.textContent = text;
  status.classList.add("show");
  clearTimeout(quiet);
  quiet = setTimeout(() => status.classList.remove("show"), 2600);
}

/**
 * A new element with a text and attributes.
 * @param {string} name @param {string} [text] @param {Record<string, string>} [attributes]
 */
function made(name, text, attributes = {}) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

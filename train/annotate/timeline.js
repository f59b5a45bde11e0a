// The list, the lanes, pointers and keys, put together.

/** @typedef {{name: string, row: HTMLElement, canvas: HTMLCanvasElement, count: HTMLElement}} Lane */

const ROW_PX = 46;
/** A chosen event that is drawn smaller than this is shown larger. */
const LEAST_EVENT_PX = 10;
const LEAST_SHOWN_S = Math.min(1, data.length);
/** @type {Lane[]} */
let lanes = [];
let otherLanes = false;
/** Rows of the list that are in sight. @type {Map<Span, HTMLElement>} */
const rows = new Map();

/** @param {Span | null} event */
function select(event) {
  state.selected = event;
  if (!event && state.looping) toggleLoop();
  showEditor();
  if (event) {
    const box = byId("scroll"), top = shownEvents().indexOf(event) * ROW_PX;
    if (top < box.scrollTop) box.scrollTop = top;
    else if (top + ROW_PX > box.scrollTop + box.clientHeight) box.scrollTop = top + ROW_PX - box.clientHeight;
  }
  refresh();
}

/** Choose an event and go to it. @param {Span} event */
function choose(event) {
  select(event);
  const length = event.end - event.start, span = state.to - state.from;
  if ((length / span) * byId("ruler").clientWidth < LEAST_EVENT_PX) {
    const shown = Math.min(data.length, Math.max(20, 12 * length));
    show(event.start - shown / 3, shown);
  }
  seek(event.start);
  const events = shownEvents();
  tell(`${events.indexOf(event) + 1} of ${events.length}: ${event.category}, ${written(event.start)} to ${written(event.end)}`);
}

/** @param {Span} event */
function listRow(event) {
  const row = made("li"), button = made("button", undefined, { type: "button" });
  const dot = made("span", undefined, { class: "dot" }), sure = made("span", undefined, { class: "sure" });
  const meter = made("span", undefined, { class: "meter" }), bar = made("i");
  dot.style.background = bar.style.background = colour(event.category);
  bar.style.width = percent(event.confidence).replace(" ", "");
  meter.append(bar);
  sure.append(meter, percent(event.confidence));
  const time = made("span", `${written(event.start)} – ${written(event.end)}`, { class: "time" });
  button.append(dot, made("span", event.category, { class: "name", title: event.category }), time, sure);
  button.addEventListener("click", () => choose(event));
  row.append(button);
  return row;
}

function drawList() {
  const events = shownEvents(), list = byId("list"), box = byId("scroll");
  list.style.height = `${events.length * ROW_PX}px`;
  const first = Math.max(0, Math.floor(box.scrollTop / ROW_PX) - 4);
  const wanted = events.slice(first, Math.ceil((box.scrollTop + box.clientHeight) / ROW_PX) + 4);
  for (const [event, row] of rows) {
    if (wanted.includes(event)) continue;
    row.remove();
    rows.delete(event);
  }
  wanted.forEach((event, place) => {
    const row = rows.get(event) ?? listRow(event);
    rows.set(event, row);
    row.style.top = `${(first + place) * ROW_PX}px`;
    row.setAttribute("aria-posinset", String(first + place + 1));
    row.setAttribute("aria-setsize", String(events.length));
    row.firstElementChild?.setAttribute("aria-current", String(event === state.selected));
    if (list.children[place] !== row) list.insertBefore(row, list.children[place] ?? null);
  });
}

/** Mark the rows of what is on now. */
function markPlaying() {
  for (const [event, row] of rows) row.classList.toggle("now", event.start <= state.now && state.now < event.end);
}

/** @param {string} name */
function lane(name) {
  const row = made("div", undefined, { class: "track lane" }), canvas = document.createElement("canvas");
  const label = made("label", undefined, { class: "label" }), count = made("span", "", { class: "soft time" });
  const box = /** @type {HTMLInputElement} */ (made("input", undefined, { type: "checkbox" }));
  box.checked = !state.hidden.has(name);
  box.style.accentColor = colour(name);
  box.addEventListener("change", () => {
    if (box.checked) state.hidden.delete(name);
    else state.hidden.add(name);
    if (state.selected && state.hidden.has(state.selected.category)) select(null);
    refreshAll();
  });
  label.append(box, made("span", name, { class: "name", title: name }), count);
  row.append(label, canvas);
  return { name, row, canvas, count };
}

/** One lane for each class that has events, or may have; the others on request. */
function buildLanes() {
  const busy = new Set([...state.events, ...truth].map((event) => event.category));
  for (const name of state.hidden) busy.add(name);
  const every = [...new Set([...data.classes, ...busy])];
  const wanted = every.filter((name) => busy.has(name) || otherLanes);
  const before = new Map(lanes.map((one) => [one.name, one]));
  lanes = wanted.map((name) => before.get(name) ?? lane(name));
  byId("lanes").replaceChildren(...lanes.map((one) => one.row));
  for (const one of lanes) {
    const count = state.events.filter((event) => event.category === one.name).length;
    one.count.textContent = String(count);
    one.count.setAttribute("aria-label", counted(count, "event"));
    one.row.classList.toggle("off", state.hidden.has(one.name));
  }
  const rest = every.length - every.filter((name) => busy.has(name)).length;
  byId("others").hidden = !rest;
  byId("others").textContent = otherLanes ? "Only classes with events" : `${counted(rest, "more class")}`;
  byId("others").setAttribute("aria-pressed", String(otherLanes));
}

function drawTexts() {
  const all = shownEvents(), hidden = state.events.length - all.length;
  const kinds = new Set(state.events.map((event) => event.category)).size;
  byId("summary").textContent = `${written(data.length, 0)} · ${counted(state.events.length, "event")}`
    + (kinds ? ` of ${counted(kinds, "class")}` : "") + (data.truth ? ` · ${truth.length} true` : "");
  byId("count").textContent = (all.length ? counted(all.length, "event") : "No event") + (hidden ? `, ${hidden} hidden` : "");
  byId("empty").hidden = all.length > 0;
  byId("scroll").hidden = all.length === 0;
  byId("empty").textContent = hidden ? "All events are of classes that are hidden."
    : "No event in this recording, at this threshold. Where it is lower, more is said.";
  byId("threshold-text").textContent = state.threshold.toFixed(2);
  const edited = state.before.length > 0;
  /** @type {HTMLInputElement} */ (byId("threshold")).disabled = edited;
  byId("chosen").hidden = edited || Math.abs(state.threshold - mean) < 0.005;
  byId("save").classList.toggle("main", !state.saved);
  byId("why").hidden = !edited;
  byId("why").textContent = `${counted(state.before.length, "correction")}${state.saved ? ", downloaded" : ", not downloaded yet"}. The threshold stays where it is while there are corrections.`;
  byId("play").classList.toggle("on", !media.paused);
  byId("play").setAttribute("aria-label", media.paused ? "Play" : "Pause");
  const here = state.events.filter((one) => one.start <= state.now && state.now < one.end);
  byId("tracks").setAttribute("aria-valuenow", state.now.toFixed(1));
  byId("tracks").setAttribute("aria-valuetext", [written(state.now), ...here.map((one) => one.category)].join(", "));
}

let waiting = false;

/** Draw all anew before the next picture of the screen. */
function refresh() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    drawTexts();
    drawList();
    drawRuler();
    drawFrames();
    drawSound();
    for (const one of lanes) {
      const place = one.row.getBoundingClientRect();
      if (place.bottom > -200 && place.top < innerHeight + 200) drawLane(one);
    }
    drawOverview(lanes);
    drawHead();
  });
}

function refreshAll() {
  buildLanes();
  refresh();
}

/** Show another part, of a length, around a time that keeps its place. @param {number} span @param {number} around */
function zoom(span, around) {
  const shown = Math.min(Math.max(span, LEAST_SHOWN_S), data.length);
  const share = (around - state.from) / (state.to - state.from);
  show(around - Math.min(Math.max(share, 0), 1) * shown, shown);
}

/** @param {number} from @param {number} span */
function show(from, span) {
  state.from = Math.min(Math.max(from, 0), data.length - span);
  state.to = state.from + span;
  refresh();
}

/** Turn the page where the head has left it. */
function keepInSight() {
  const span = state.to - state.from;
  if (state.now < state.from || state.now > state.to) show(state.now - span * 0.08, span);
}

function setThreshold(/** @type {number} */ value) {
  state.threshold = value;
  state.events = eventsAt(data, value);
  const before = state.selected;
  select(state.events.find((one) => before && one.category === before.category && one.start === before.start) ?? null);
  refreshAll();
}

function startTimeline() {
  const slider = /** @type {HTMLInputElement} */ (byId("threshold"));
  slider.min = String(data.least);
  slider.value = String(mean);
  slider.addEventListener("input", () => setThreshold(Number(slider.value)));
  byId("chosen").addEventListener("click", () => {
    slider.value = String(mean);
    setThreshold(mean);
  });
  byId("others").addEventListener("click", () => {
    otherLanes = !otherLanes;
    refreshAll();
  });
  byId("in").addEventListener("click", () => zoom((state.to - state.from) / 2, state.now));
  byId("out").addEventListener("click", () => zoom((state.to - state.from) * 2, state.now));
  byId("all").addEventListener("click", () => show(0, data.length));
  byId("link").addEventListener("click", linkToHere);
  byId("scroll").addEventListener("scroll", drawList, { passive: true });
  byId("tracks").setAttribute("aria-valuemax", String(data.length));
  byId("frames-track").hidden = !data.frames.length;
  byId("sound-track").hidden = !data.sound.length;
  byId("truth-key").hidden = !truth.length;
  byId("unseen").hidden = !data.unseen.length;
  byId("unseen").textContent = "Not looked at: " + data.unseen.map(([start, end]) => `${written(start)} to ${written(end)}`).join(", ");
  byId("facts").append(...data.facts.flatMap(([name, text]) => [made("dt", name), made("dd", text)]));
  addEventListener("resize", refresh);
  addEventListener("scroll", refresh, { passive: true });
  addEventListener("hashchange", () => seek(moment() ?? state.now));
  dark.addEventListener("change", () => {
    readTheme();
    rows.clear();
    byId("list").replaceChildren();
    lanes = [];
    refreshAll();
  });
}

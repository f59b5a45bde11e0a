// Corrections: delete, move ends, rename, add; and the list that `cache relabel` takes.

const LEAST_S = 0.1;

/** Take a new list, and remember the one before. @param {Span[]} events @param {Span | null} chosen */
function correct(events, chosen) {
  state.before.push(state.events);
  state.events = inOrder(events);
  state.saved = false;
  select(chosen);
  refreshAll();
}

/**
 * Put a changed copy in an event's place; what a person says is certain.
 * @param {Span} event @param {Partial<Span>} change
 */
function change(event, change) {
  const changed = { ...event, ...change, confidence: 1 };
  changed.start = Math.min(within(changed.start), data.length - LEAST_S);
  changed.end = Math.max(within(changed.end), changed.start + LEAST_S);
  for (const edge of /** @type {const} */ (["start", "end"])) {
    changed[edge] = Math.round(changed[edge] * 1000) / 1000;
  }
  correct(state.events.map((one) => (one === event ? changed : one)), changed);
}

/** Move an end of the chosen event. @param {"start" | "end"} edge @param {number} time */
function moveEdge(edge, time) {
  const event = state.selected;
  if (!event) return tell("Choose an event first.");
  const room = edge === "start" ? Math.min(time, event.end - LEAST_S) : Math.max(time, event.start + LEAST_S);
  change(event, { [edge]: room });
  tell(`${event.category}: ${edge} at ${written(room)}`);
}

function addEvent() {
  const last = state.selected?.category ?? state.events.at(-1)?.category ?? data.classes[0];
  const start = Math.round(state.now * 10) / 10;
  const fresh = { category: last, start, end: Math.min(start + 1, data.length), confidence: 1 };
  if (fresh.end - fresh.start < LEAST_S) return tell("There is no room for an event here.");
  correct([...state.events, fresh], fresh);
  byId("edit-class").focus();
}

function deleteEvent() {
  const event = state.selected;
  if (!event) return tell("Choose an event first.");
  const at = shownEvents().indexOf(event);
  const rest = state.events.filter((one) => one !== event);
  correct(rest, null);
  select(shownEvents()[Math.min(at, shownEvents().length - 1)] ?? null);
  refresh();
  tell(`Deleted ${event.category}, ${written(event.start)}. U brings it back.`);
}

function undo() {
  const before = state.before.pop();
  if (!before) return tell("Nothing to undo.");
  state.events = before;
  state.saved = state.before.length === 0;
  select(before.find((one) => one.start >= state.now) ?? null);
  refreshAll();
}

/** A cell of a CSV. @param {string} text */
function cell(text) {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** The list as CSV; of no events a row that says so. @param {Span[]} events */
function asCsv(events) {
  const name = cell(data.listed);
  const rows = events.map((one) =>
    [name, one.start.toFixed(3), one.end.toFixed(3), cell(one.category), one.confidence.toFixed(3)].join(","));
  return ["media,start_s,end_s,category,confidence", ...(rows.length ? rows : [`${name},,,,`]), ""].join("\n");
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([asCsv(state.events)], { type: "text/csv" }));
  link.download = `${data.recording}.corrected.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  state.saved = true;
  refresh();
  tell(`${counted(state.events.length, "event")} as CSV: python -m cache relabel CACHE FILE --only-these`);
}

/** The number in a field, or null. @param {string} id */
function numberIn(id) {
  const value = /** @type {HTMLInputElement} */ (byId(id)).valueAsNumber;
  return Number.isFinite(value) ? value : null;
}

function startEditor() {
  byId("add").addEventListener("click", addEvent);
  byId("undo").addEventListener("click", undo);
  byId("save").addEventListener("click", save);
  byId("delete").addEventListener("click", deleteEvent);
  byId("start-here").addEventListener("click", () => moveEdge("start", state.now));
  byId("end-here").addEventListener("click", () => moveEdge("end", state.now));
  byId("editor").addEventListener("submit", (event) => event.preventDefault());
  byId("edit-class").addEventListener("change", (event) => {
    const name = /** @type {HTMLInputElement} */ (event.target).value.trim();
    if (!name) return tell("A class needs a name.");
    if (state.selected && name !== state.selected.category) change(state.selected, { category: name });
  });
  for (const edge of /** @type {const} */ (["start", "end"])) {
    byId(`edit-${edge}`).addEventListener("change", () => {
      const time = numberIn(`edit-${edge}`);
      if (time !== null) moveEdge(edge, time);
    });
  }
  byId("classes").append(...data.classes.map((name) => made("option", undefined, { value: name })));
  addEventListener("beforeunload", (event) => {
    if (!state.saved) event.preventDefault();
  });
}

/** Show the chosen event in the form. */
function showEditor() {
  const event = state.selected;
  byId("editor").hidden = !event;
  /** @type {HTMLButtonElement} */ (byId("undo")).disabled = !state.before.length;
  if (!event) return;
  const values = { class: event.category, start: event.start.toFixed(2), end: event.end.toFixed(2) };
  for (const [name, value] of Object.entries(values)) {
    const field = /** @type {HTMLInputElement} */ (byId(`edit-${name}`));
    if (document.activeElement !== field) field.value = value;
  }
}

// The recording: playing, seeking, repeating; and a clock of its own where there is none to play.

const media = /** @type {HTMLVideoElement} */ (byId("media"));
let playable = false;

/** @param {number} time */
function seek(time) {
  state.now = within(time);
  if (playable) media.currentTime = state.now;
  keepInSight();
  refresh();
}

function togglePlay() {
  if (!playable) return tell("There is no recording to play: choose the file above.");
  if (!media.paused) return media.pause();
  if (state.now >= data.length - 0.05) seek(0);
  media.play().catch(() => tell("This browser does not play it."));
}

/** From where an event is looked for: a little more than where one begins. */
const NEAR = 0.05;

/** Go to the event after or before now. @param {1 | -1} step */
function stepEvent(step) {
  const events = shownEvents();
  const at = state.selected ? events.indexOf(state.selected) : -1;
  const here = at >= 0 && Math.abs(events[at].start - state.now) < NEAR;
  const found = here
    ? events[at + step]
    : step > 0
      ? events.find((one) => one.start > state.now + NEAR)
      : events.findLast((one) => one.start < state.now - NEAR);
  if (found) choose(found);
  else tell(step > 0 ? "No event after this." : "No event before this.");
}

function toggleLoop() {
  if (!state.looping && !state.selected) {
    const inside = shownEvents().find((one) => one.start <= state.now && state.now < one.end);
    if (!inside) return tell("Choose an event to repeat.");
    select(inside);
  }
  state.looping = !state.looping;
  byId("loop").setAttribute("aria-pressed", String(state.looping));
  if (state.looping && state.selected) {
    seek(state.selected.start);
    if (playable && media.paused) togglePlay();
  }
}

function tick() {
  if (playable) {
    state.now = within(media.currentTime);
    const chosen = state.selected;
    if (state.looping && chosen && !media.paused) {
      const out = state.now >= chosen.end || state.now < chosen.start - NEAR;
      if (out && chosen.end > chosen.start) media.currentTime = state.now = chosen.start;
    }
  }
  keepInSight();
  drawHead();
  if (!media.paused) requestAnimationFrame(tick);
}

/** @param {string} text */
function showMissing(text) {
  playable = false;
  byId("missing-text").textContent = text;
  byId("missing").hidden = false;
  byId("screen").classList.remove("sound");
}

/** @param {string} address */
function load(address) {
  media.src = address;
  media.load();
}

function startPlayer() {
  const name = data.media.name, address = data.media.address;
  media.addEventListener("loadedmetadata", () => {
    playable = true;
    byId("missing").hidden = true;
    byId("screen").classList.toggle("sound", media.videoWidth === 0);
    if (state.now > 0) media.currentTime = state.now;
  });
  media.addEventListener("error", () =>
    showMissing(`“${address ?? name}” is not there, or this browser does not play it. The events are below all the same.`));
  media.addEventListener("play", tick);
  for (const what of ["play", "pause", "ended"]) media.addEventListener(what, refresh);
  for (const what of ["seeked", "timeupdate"]) media.addEventListener(what, () => media.paused && tick());
  byId("choose").addEventListener("change", (event) => {
    const file = /** @type {HTMLInputElement} */ (event.target).files?.[0];
    if (file) load(URL.createObjectURL(file));
  });
  if (address) load(address);
  else showMissing(name ? `“${name}” was not found when this page was made.` : "The file of this recording is not known.");

  media.addEventListener("click", togglePlay);
  byId("play").addEventListener("click", togglePlay);
  byId("previous").addEventListener("click", () => stepEvent(-1));
  byId("next").addEventListener("click", () => stepEvent(1));
  byId("loop").addEventListener("click", toggleLoop);
  byId("mute").addEventListener("click", toggleMute);
  byId("full").addEventListener("click", toggleFull);
  byId("speed").addEventListener("change", (event) => {
    media.playbackRate = Number(/** @type {HTMLSelectElement} */ (event.target).value);
  });
}

function toggleMute() {
  media.muted = !media.muted;
  byId("mute").setAttribute("aria-pressed", String(media.muted));
}

function toggleFull() {
  const change = document.fullscreenElement ? document.exitFullscreen() : media.requestFullscreen();
  change.catch(() => tell("This browser shows no full screen here."));
}

/** The moment that an address names: #t=12.3. */
function moment() {
  const found = /^#t=([0-9]+(?:\.[0-9]+)?)$/.exec(location.hash);
  return found ? Number(found[1]) : null;
}

function linkToHere() {
  history.replaceState(null, "", `#t=${state.now.toFixed(1)}`);
  const copied = navigator.clipboard?.writeText(location.href) ?? Promise.reject();
  copied.then(() => tell("Link copied."), () => tell("The address of this page now leads here."));
}

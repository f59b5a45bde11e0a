"use strict";
(() => {
  const each = (what, on, place = document) => place.querySelectorAll(what).forEach(on);

  // Panels behind tabs; without scripts they stand below each other.
  each("[data-tabs]", (group) => {
    const panels = [...group.children];
    if (panels.length < 2) return;
    const list = document.createElement("div");
    list.className = "tabs";
    list.setAttribute("role", "tablist");
    const buttons = panels.map((panel) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = panel.dataset.tab;
      button.setAttribute("role", "tab");
      panel.setAttribute("role", "tabpanel");
      panel.setAttribute("aria-label", panel.dataset.tab);
      button.addEventListener("click", () => choose(button));
      return button;
    });
    const choose = (chosen) => buttons.forEach((button, n) => {
      button.setAttribute("aria-selected", button === chosen);
      panels[n].hidden = button !== chosen;
    });
    list.append(...buttons);
    group.before(list);
    choose(buttons[0]);
  });

  // A line over a clip's rows says where it plays; a click into a row goes there.
  const players = [...document.querySelectorAll("video[data-start], audio[data-start]")];
  for (const media of players) {
    const card = media.closest(".clip"), rows = card.querySelector(".rows");
    const start = Number(media.dataset.start), seconds = Number(media.dataset.seconds);
    const head = document.createElement("i");
    head.className = "head";
    rows.classList.add("playable");
    const frames = card.querySelectorAll(".frames div");
    if (frames.length) media.poster = frames[frames.length >> 1].querySelector("img").src;
    const place = () => {
      const at = (media.currentTime - start) / seconds;
      if (at >= 1) media.pause();
      rows.style.setProperty("--at", Math.min(1, Math.max(0, at)));
      rows.append(head);
      if (!media.paused) requestAnimationFrame(place);
    };
    media.addEventListener("play", () => {
      for (const other of players) if (other !== media) other.pause();
      if (media.currentTime < start || media.currentTime >= start + seconds) media.currentTime = start;
      place();
    });
    media.addEventListener("seeked", place);
    media.addEventListener("error", () => {
      const text = document.createElement("span");
      text.className = "soft";
      text.textContent = "its file can't be played here";
      media.replaceWith(text);
      rows.classList.remove("playable");
    });
    rows.addEventListener("click", (event) => {
      const plot = event.target.closest(".plot");
      if (!plot || !media.isConnected) return;
      const box = plot.getBoundingClientRect();
      media.currentTime = start + seconds * (event.clientX - box.left) / box.width;
      media.play().catch(() => {});
    });
  }

  addEventListener("beforeprint", () => each("details", (one) => { one.open = true; }));

  const main = document.getElementById("clips");
  if (!main) return;
  const all = [...main.querySelectorAll("article")], right = document.getElementById("right");
  const [show, sort, short, count] = ["show", "sort", "short", "count"].map((id) => document.getElementById(id));
  const text = (a, b, key) => a.dataset[key].localeCompare(b.dataset[key]) || a.dataset.wrong - b.dataset.wrong;
  const orders = {
    wrong: (a, b) => a.dataset.wrong - b.dataset.wrong,
    best: (a, b) => b.dataset.wrong - a.dataset.wrong,
    sure: (a, b) => b.dataset.sure - a.dataset.sure,
    class: (a, b) => text(a, b, "class"),
    id: (a, b) => text(a, b, "id"),
  };
  const update = () => {
    all.sort(orders[sort.value]);
    main.append(...all);
    let shown = 0;
    for (const clip of all) {
      clip.hidden = (show.value && clip.dataset.outcome !== show.value) || (short.checked && clip.dataset.short !== "1");
      shown += !clip.hidden;
    }
    if (right) {
      right.hidden = show.value !== "" || sort.value !== "wrong";
      if (!right.hidden) all.find((clip) => clip.dataset.outcome === "right").before(right);
    }
    count.textContent = `${shown} of ${all.length} clips`;
  };
  for (const control of [show, sort, short]) control.addEventListener("change", update);
  document.querySelector(".tools").hidden = false;
  update();
})();

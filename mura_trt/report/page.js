"use strict";
// Everything that comes from the data is set as text, never as markup.
(() => {
  const PAGE = 25;
  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("rows").textContent);
  const { studies, views } = data;
  const count = studies.name.length;
  const lower = studies.name.map((name) => name.toLowerCase());
  const body = document.querySelector("#studies tbody");
  const dialog = at("study");
  const controls = ["search", "part", "decision", "truth"].map(at).filter(Boolean);
  const DECISIONS = { 1: "abnormal", 0: "normal", "-1": "no score" };
  const TRUTHS = { 1: "abnormal", 0: "normal", "-1": "unknown" };

  const make = (element, looks, words) => {
    const made = document.createElement(element);
    if (looks) made.className = looks;
    if (words !== undefined) made.textContent = words;
    return made;
  };

  const named = (name) => {  // may be broken behind slashes
    const made = make("bdi");
    name.split(/(?<=[/])/).forEach((piece, number) => made.append(number ? make("wbr") : "", piece));
    return made;
  };

  // --- pictures: their data follows the script, so that the list need not wait for it ---
  let pictures = null;
  const waiting = [];
  const setSource = (image, number) => { image.src = "data:image/jpeg;base64," + pictures[number]; };
  const picture = (view, size) => {
    const image = make("img");
    image.width = image.height = size;
    image.decoding = "async";
    image.alt = (views.overlay[view] ? "heatmap of " : "") + views.name[view];
    if (pictures) setSource(image, views.picture[view]);
    else waiting.push([image, views.picture[view]]);
    return image;
  };
  document.addEventListener("DOMContentLoaded", () => {
    const held = at("pictures");
    pictures = JSON.parse(held.textContent);
    held.remove();
    for (const [image, number] of waiting.splice(0)) if (image.isConnected) setSource(image, number);
  });

  // --- which studies, in which order ---
  const unscored = (study) => studies.probability[study] === null;
  const wrong = (study) => {
    const truth = studies.truth[study], decided = studies.abnormal[study];
    return truth < 0 || decided < 0 || truth === decided ? "" : truth ? "missed" : "alarm";
  };
  const ranks = (values) => {
    const order = values.map((_, number) => number).sort((a, b) => (values[a] < values[b] ? -1 : values[a] > values[b] ? 1 : a - b));
    const found = new Array(values.length);
    order.forEach((number, rank) => { found[number] = rank && values[number] === values[order[rank - 1]] ? found[order[rank - 1]] : rank; });
    return found;
  };
  const failing = studies.failed;
  const COLUMNS = [
    { key: "name", head: "Study", values: () => ranks(lower) },
    { key: "part", head: "Body part", values: () => studies.part },
    { key: "probability", head: "Probability", values: () => studies.probability, falls: true },
    { key: "abnormal", head: "Decision", values: () => studies.abnormal, falls: true },
    ...(data.labels ? [{ key: "truth", head: "Truth", values: () => studies.truth, falls: true }] : []),
    { key: "failed", head: "Views", values: () => failing, falls: true },
    { head: "Pictures" },
  ];
  const sorting = { column: COLUMNS[2], falls: true };
  let shown = [];
  let page = 0;

  const choose = () => {
    const words = at("search").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const part = at("part").value, decision = at("decision").value, truth = at("truth") ? at("truth").value : "";
    const chosen = [];
    for (let study = 0; study < count; study++) {
      if (part !== "" && studies.part[study] !== Number(part)) continue;
      if (decision !== "" && studies.abnormal[study] !== Number(decision)) continue;
      if (truth === "1" || truth === "0") {
        if (studies.truth[study] !== Number(truth)) continue;
      } else if (truth !== "") {
        const how = wrong(study);
        if (truth === "wrong" ? !how : how !== truth) continue;
      }
      if (!words.every((word) => lower[study].includes(word))) continue;
      chosen.push(study);
    }
    const { column, falls } = sorting;
    if (column.key !== "probability" || !falls) {  // as they come, probabilities fall
      column.found = column.found || column.values();
      const values = column.found;
      chosen.sort((a, b) => {
        if (column.key === "probability" && unscored(a) !== unscored(b)) return unscored(a) ? 1 : -1;
        const apart = falls ? values[b] - values[a] : values[a] - values[b];
        return apart || a - b;
      });
    }
    shown = chosen;
    page = 0;
  };

  // --- the table ---
  const probability = (value, abnormal) => {
    const cell = make("span", "probability");
    cell.append(make("span", "", value === null ? "none" : value.toFixed(3)));
    if (value !== null) {
      const bar = make("span", "bar"), fill = make("i", abnormal ? "alarm" : ""), mark = make("b");
      bar.setAttribute("aria-hidden", "true");
      fill.style.width = 100 * value + "%";
      mark.style.left = 100 * data.threshold + "%";
      bar.append(fill, mark);
      cell.append(bar);
    }
    return cell;
  };
  const decision = (study) => {
    const value = studies.abnormal[study];
    return make("span", "tag " + (value === 1 ? "alarm" : value === 0 ? "" : "none"), DECISIONS[value]);
  };
  const mistake = (study) => {
    const how = wrong(study);
    return how ? make("span", "wrong", how === "missed" ? "missed" : "false alarm") : "";
  };
  const viewsOf = (study) => {
    const found = [], stop = study + 1 < count ? studies.first[study + 1] : views.name.length;
    for (let view = studies.first[study]; view < stop; view++) found.push(view);
    return found;
  };

  const row = (study) => {
    const made = make("tr"), head = make("th"), open = make("button", "open");
    made.setAttribute("role", "row");
    head.setAttribute("role", "rowheader");
    head.scope = "row";
    open.type = "button";
    open.dataset.study = study;
    open.append(named(studies.name[study]));
    head.append(open);
    made.append(head);
    const cell = (words, looks, ...content) => {
      const found = make("td", looks);
      found.setAttribute("role", "cell");
      found.dataset.head = words;
      found.append(...content);
      made.append(found);
    };
    const failed = studies.failed[study], scored = studies.scored[study];
    cell("", "bare part", make("bdi", "", data.parts[studies.part[study]]));
    cell("", "bare wide", probability(studies.probability[study], studies.abnormal[study] === 1));
    cell("", "bare decision", decision(study));
    if (data.labels) cell("truth", "truth", TRUTHS[studies.truth[study]], mistake(study));
    cell("views", "views", String(scored + failed), failed ? make("span", "failed", failed + " failed") : "");
    const thumbs = make("span", "thumbs");
    thumbs.append(...viewsOf(study).filter((view) => views.picture[view] >= 0).map((view) => picture(view, 48)));
    cell("", "bare wide", thumbs);
    return made;
  };

  const render = () => {
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    waiting.length = 0;
    const rows = shown.slice(page * PAGE, (page + 1) * PAGE).map(row);
    if (!rows.length) {
      const none = make("tr"), cell = make("td", "empty", "No study is like that.");
      cell.colSpan = COLUMNS.length;
      none.append(cell);
      rows.push(none);
    }
    body.replaceChildren(...rows);
    const number = (value) => value.toLocaleString("en");
    at("count").textContent = number(shown.length) + " of " + number(count) + " studies";
    at("where").textContent = "Page " + number(page + 1) + " of " + number(pages);
    at("before").disabled = page === 0;
    at("after").disabled = page === pages - 1;
  };
  const update = () => { choose(); render(); };

  const heads = COLUMNS.map((column) => {
    const head = make("th");
    head.scope = "col";
    head.setAttribute("role", "columnheader");
    if (column.key) {
      const button = make("button", "", column.head);
      button.type = "button";
      button.addEventListener("click", () => {
        sorting.falls = sorting.column === column ? !sorting.falls : Boolean(column.falls);
        sorting.column = column;
        markSorted();
        update();
      });
      head.append(button);
    } else head.append(make("span", "", column.head));
    return head;
  });
  const markSorted = () => heads.forEach((head, number) => {
    if (COLUMNS[number] === sorting.column) head.setAttribute("aria-sort", sorting.falls ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
  document.querySelector("#studies thead tr").append(...heads);

  const present = new Set(studies.part);
  data.parts.forEach((part, number) => {
    if (!present.has(number)) return;
    const option = make("option", "", part || "unknown");
    option.value = number;
    at("part").append(option);
  });
  for (const control of controls) control.addEventListener("input", update);
  at("clear").addEventListener("click", () => {
    for (const control of controls) control.value = "";
    update();
    at("search").focus();
  });
  const turn = (by) => { page += by; render(); };
  at("before").addEventListener("click", () => turn(-1));
  at("after").addEventListener("click", () => turn(1));

  // --- a study's detail ---
  let opened = -1;  // its place among those shown
  const fact = (term, ...said) => {
    const made = make("div"), about = make("dd");
    about.append(...said);
    made.append(make("dt", "", term), about);
    return made;
  };
  const card = (view) => {
    const made = make("li"), value = views.probability[view];
    const code = views.code[view] < 0 ? "" : data.codes[views.code[view]];
    if (views.picture[view] >= 0) made.append(picture(view, 112));
    else made.append(make("span", "blank", code || "no picture"));
    made.append(named(views.name[view]));
    if (code) made.append(make("span", "failed", "failed: " + code));
    else made.append(probability(value, value > data.threshold));
    const file = views.file[view];
    // Only what score --heatmaps names its files; a link anywhere else is not made.
    if (file && /^heatmaps\/[0-9A-Za-z_/-]+\.jpe?g$/.test(file)) {
      const link = make("a", "", "heatmap");
      link.href = file;
      link.target = "_blank";
      link.rel = "noreferrer noopener";
      made.append(link);
    }
    return made;
  };
  const fill = () => {
    const study = shown[opened];
    at("study-name").replaceChildren(named(studies.name[study]));
    const facts = [
      fact("Body part", make("bdi", "", data.parts[studies.part[study]] || "unknown")),
      fact("Probability", probability(studies.probability[study], studies.abnormal[study] === 1)),
      fact("Decision", decision(study)),
    ];
    if (data.labels) facts.push(fact("Truth", TRUTHS[studies.truth[study]], mistake(study)));
    facts.push(fact("Views", studies.scored[study] + " scored, " + studies.failed[study] + " failed"));
    at("study-facts").replaceChildren(...facts);
    at("study-views").replaceChildren(...viewsOf(study).map(card));
    at("study-before").disabled = opened === 0;
    at("study-after").disabled = opened === shown.length - 1;
    dialog.scrollTop = 0;
  };
  const open = (place) => {
    opened = place;
    fill();
    if (!dialog.open) dialog.showModal();
  };
  const move = (by) => {
    if (opened + by < 0 || opened + by >= shown.length) return;
    opened += by;
    fill();
  };
  at("close").addEventListener("click", () => dialog.close());
  at("study-before").addEventListener("click", () => move(-1));
  at("study-after").addEventListener("click", () => move(1));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") move(-1);
    else if (event.key === "ArrowRight") move(1);
    else return;
    event.preventDefault();
  });
  const focusRow = (number) => {
    const buttons = body.querySelectorAll(".open");
    if (buttons.length) buttons[Math.min(Math.max(number, 0), buttons.length - 1)].focus();
  };
  dialog.addEventListener("close", () => {  // back to the study that was looked at last
    page = Math.floor(opened / PAGE);
    render();
    focusRow(opened % PAGE);
  });
  body.addEventListener("click", (event) => {
    const found = event.target.closest("tr");
    const button = found && found.querySelector(".open");
    if (button && !String(window.getSelection())) open(shown.indexOf(Number(button.dataset.study)));
  });
  body.addEventListener("keydown", (event) => {
    const buttons = [...body.querySelectorAll(".open")];
    const here = buttons.indexOf(document.activeElement);
    if (here < 0) return;
    const last = buttons.length - 1;
    const steps = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: last };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const to = steps[event.key];
    if (to > last && !at("after").disabled) { turn(1); focusRow(0); }
    else if (to < 0 && !at("before").disabled) { turn(-1); focusRow(PAGE); }
    else focusRow(to);
  });

  markSorted();
  update();
})();

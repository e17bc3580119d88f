"use strict";
(() => {
  // In print all collapsible sections are expanded.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const each of opened) each.open = true;
  });
  addEventListener("afterprint", () => { for (const each of opened) each.open = false; });

  const source = document.getElementById("attribution-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const $ = (id) => document.getElementById(id);
  const buttons = [...document.querySelectorAll("[data-photo]")];
  const streams = data.streams.filter((stream) => Object.keys(stream.stages).length);
  const ALL = "";
  const relative = Object.keys(data.baseline).length > 0;
  const together = new Set(streams.map((stream) => stream.target)).size <= 1 && streams.length > 1;
  const state = { photo: 0, k: 0, stream: ALL, stage: ALL, scale: "shared", reference: "mean", opacity: 0.8 };
  const FOR = [226, 88, 12], AGAINST = [22, 104, 190];

  const mark = (p, c) => {
    const words = [...(p.labels.includes(c) ? ["true"] : []), ...(p.predicted.includes(c) ? ["predicted"] : [])];
    return words.length ? ` (${words.join(", ")})` : "";
  };
  const signed = (value, digits = 3) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
  const baseline = (key, stage) => (data.baseline[key] ? data.baseline[key][stage][photo().classes[state.k]] : 0);
  const contribution = (key, stage) => photo().sums[key][stage][state.k] - (state.reference === "mean" ? baseline(key, stage) : 0);
  const photo = () => data.photos[state.photo];

  // Maps. The density of a cell is its contribution over its fraction of the image, so that stages with coarse and fine feature maps compare.
  function density(key, stage) {
    const [rows, columns] = data.streams.find((s) => s.key === key).stages[stage];
    const [scale, text] = photo().maps[key][stage];
    const bytes = atob(text), cells = rows * columns, start = state.k * cells;
    const zero = state.reference === "mean" ? baseline(key, stage) / cells : 0;
    const values = new Float64Array(cells);
    for (let i = 0; i < cells; i++) values[i] = (((bytes.charCodeAt(start + i) << 24) >> 24) * scale - zero) * cells;
    return { rows, columns, values };
  }
  function resized(map, rows, columns) {
    const values = new Float64Array(rows * columns);
    for (let r = 0; r < rows; r++) {
      const y = Math.min(Math.max((r + 0.5) * map.rows / rows - 0.5, 0), map.rows - 1), y0 = Math.floor(y), y1 = Math.min(y0 + 1, map.rows - 1);
      for (let c = 0; c < columns; c++) {
        const x = Math.min(Math.max((c + 0.5) * map.columns / columns - 0.5, 0), map.columns - 1), x0 = Math.floor(x), x1 = Math.min(x0 + 1, map.columns - 1);
        const at = (yy, xx) => map.values[yy * map.columns + xx];
        const top = at(y0, x0) + (at(y0, x1) - at(y0, x0)) * (x - x0), low = at(y1, x0) + (at(y1, x1) - at(y1, x0)) * (x - x0);
        values[r * columns + c] = top + (low - top) * (y - y0);
      }
    }
    return { rows, columns, values };
  }
  function chosen() {
    const list = [];
    for (const stream of streams) {
      if (state.stream !== ALL && stream.key !== state.stream) continue;
      for (const stage of Object.keys(stream.stages)) {
        if (state.stage === ALL || stage === state.stage) list.push([stream.key, stage]);
      }
    }
    return list;
  }
  function summed(list) {
    const maps = list.map(([key, stage]) => density(key, stage));
    if (maps.length === 1) return maps[0];
    const side = Math.max(...maps.map((map) => Math.max(map.rows, map.columns)));
    const total = { rows: side, columns: side, values: new Float64Array(side * side) };
    for (const map of maps) resized(map, side, side).values.forEach((value, i) => { total.values[i] += value; });
    return total;
  }
  const largest = (map) => map.values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  function sharedScale() {
    let most = 0;
    const all = [];
    for (const stream of streams) {
      const own = Object.keys(stream.stages).map((stage) => [stream.key, stage]);
      for (const one of own) most = Math.max(most, largest(density(...one)));
      most = Math.max(most, largest(summed(own)));
      all.push(...own);
    }
    return together ? Math.max(most, largest(summed(all))) : most;
  }

  // Drawing: the stronger the evidence, the less of the image is visible.
  function colour(value, opacity) {
    const strength = Math.max(-1, Math.min(1, value));
    return [...(strength < 0 ? AGAINST : FOR), Math.round(255 * opacity * Math.abs(strength))];
  }
  function layer(map, most) {
    const canvas = document.createElement("canvas");
    canvas.width = map.columns; canvas.height = map.rows;
    const context = canvas.getContext("2d"), image = context.createImageData(map.columns, map.rows);
    map.values.forEach((value, i) => image.data.set(colour(most ? value / most : 0, state.opacity), 4 * i));
    context.putImageData(image, 0, 0);
    return canvas;
  }
  function draw() {
    if (!streams.length) { $("canvas").parentElement.hidden = true; return; }
    const map = summed(chosen()), most = state.scale === "shared" ? sharedScale() : largest(map);
    const canvas = $("canvas"), context = canvas.getContext("2d");
    const picture = buttons[state.photo].querySelector("img");
    const wide = picture ? Number(picture.getAttribute("width")) : 1, high = picture ? Number(picture.getAttribute("height")) : 1;
    canvas.width = Math.round(448 * wide / Math.max(wide, high)); canvas.height = Math.round(448 * high / Math.max(wide, high));
    const paint = () => {
      context.imageSmoothingEnabled = true;
      context.fillStyle = "#888";
      context.fillRect(0, 0, canvas.width, canvas.height);
      if (picture) {
        context.filter = "saturate(0.35)";
        context.drawImage(picture, 0, 0, canvas.width, canvas.height);
        context.filter = "none";
      }
      context.drawImage(layer(map, most), 0, 0, canvas.width, canvas.height);
    };
    if (picture && !picture.complete) picture.addEventListener("load", paint, { once: true });
    paint();
    drawRamp(most);
    describe(map);
  }
  function drawRamp(most) {
    const context = $("ramp").getContext("2d"), image = context.createImageData(256, 10);
    for (let y = 0; y < 10; y++) for (let x = 0; x < 256; x++) image.data.set(colour((x - 127.5) / 127.5, Math.max(state.opacity, 0.05)), 4 * (y * 256 + x));
    context.putImageData(image, 0, 0);
    $("low").textContent = signed(-most, 1);
    $("high").textContent = signed(most, 1) + " logit density (the whole image has area 1)";
  }
  function describe(map) {
    let best = 0;
    map.values.forEach((value, i) => { if (value > map.values[best]) best = i; });
    const row = Math.floor(best / map.columns), column = best % map.columns;
    const third = (at, of, names) => names[Math.min(2, Math.floor(3 * (at + 0.5) / of))];
    const place = `${third(row, map.rows, ["top", "middle", "bottom"])} ${third(column, map.columns, ["left", "centre", "right"])}`.replace("middle centre", "centre");
    const total = chosen().reduce((sum, [key, stage]) => sum + contribution(key, stage), 0);
    const name = data.classes[photo().classes[state.k]];
    const who = `${state.stream === ALL ? "all image streams" : state.stream}, ${state.stage === ALL ? "all stages" : state.stage}`;
    const reference = state.reference === "mean" && chosen().every(([key]) => data.baseline[key]) ? " relative to the training mean" : "";
    const contribute = chosen().length === 1 ? "contributes" : "contribute";
    const text = `${photo().name}: ${who} ${contribute} ${signed(total)} to the logit of ${name}${reference}. The strongest evidence for this class is in the ${place} of the image.`;
    $("description").textContent = text;
    $("canvas").setAttribute("aria-label", text);
  }

  // Tables.
  function fill(id, caption, head, rows) {
    const table = document.createElement("table"), top = table.createCaption(), place = $(id);
    top.textContent = caption;
    const line = table.createTHead().insertRow();
    head.forEach((text, i) => cell(line, "th", text, i, "col"));
    const body = table.createTBody();
    for (const { cells, chosen: mark } of rows) {
      const row = body.insertRow();
      if (mark) row.className = "chosen";
      cells.forEach((text, i) => cell(row, i ? "td" : "th", text, i, i ? "" : "row"));
    }
    place.replaceChildren(...(rows.length ? [table] : []));
    place.hidden = !rows.length;
  }
  function cell(row, kind, text, column, scope) {
    const made = document.createElement(kind);
    made.textContent = text;
    made.className = column ? "number" : "word";
    if (scope) made.scope = scope;
    row.append(made);
  }
  function tables() {
    const p = photo(), k = state.k, alone = Object.keys(p.alone), name = data.classes[p.classes[k]];
    const percent = (value) => (100 * value).toFixed(1) + " %";
    fill("probabilities", "Prediction", ["class", "probability", ...alone.map((key) => key + " alone")],
      p.classes.map((c, i) => ({ cells: [data.classes[c] + mark(p, c), percent(p.probabilities[c]), ...alone.map((key) => percent(p.alone[key][c]))], chosen: i === k })));
    const rows = [];
    for (const stream of data.streams) {
      for (const stage of Object.keys(stream.stages)) rows.push({ cells: part(`${stream.key} ${stage}`, p.sums[stream.key][stage][k], stream.key, stage), chosen: stream.key === state.stream && stage === state.stage });
      if (p.vectors[stream.key]) rows.push({ cells: part(`${stream.key}, all entries`, p.vectors[stream.key].sum[k], stream.key, "vector") });
      if (stream.target) rows.push(...totals(p, k, stream.target, stream.key + ": "));
    }
    if (!data.streams.some((stream) => stream.target)) rows.push(...totals(p, k, "", ""));
    fill("contributions", `Contribution of each stage to the logit of ${name}`, ["stage", "contribution", ...(relative ? ["relative to the training mean"] : [])],
      rows.map((row) => ({ ...row, cells: row.cells.slice(0, relative ? 3 : 2) })));
    fill("shapley", `Shapley value of each stream for the logit of ${name}, relative to the training mean`, ["stream", "Shapley value"],
      data.streams.length > 1 ? data.streams.map((stream, s) => ({ cells: [stream.key, signed(p.shapley[k][s])] })) : []);
    const entries = data.streams.filter((stream) => p.vectors[stream.key])
      .flatMap((stream) => p.vectors[stream.key].entries[k].map(([i, value]) => ({ cells: [data.vocabulary[stream.key][i], signed(value)] })));
    fill("entries", `Largest contributions of vector entries to the logit of ${name}`, ["entry", "contribution"], entries);
  }
  function totals(p, k, target, before) {
    const keys = data.streams.filter((stream) => stream.target === target).map((stream) => stream.key);
    const known = keys.every((key) => data.baseline[key]), exact = data.streams.every((stream) => stream.target !== target || stream.exact);
    const mean = keys.flatMap((key) => Object.keys(data.baseline[key] || {}).map((stage) => baseline(key, stage))).reduce((a, b) => a + b, 0);
    const bias = p.bias[target][k], logit = signed(p.logits[target][k]);
    return [{ cells: [before + (!exact ? "remainder" : relative && known ? "bias (right column: plus the training mean)" : "bias"), signed(bias), known ? signed(bias + mean) : ""] }, { cells: [before + "logit", logit, known ? logit : ""], chosen: true }];
  }
  function part(name, value, key, stage) {
    return [name, signed(value), data.baseline[key] ? signed(value - baseline(key, stage)) : ""];
  }

  // Controls.
  function options(id, pairs, value) {
    $(id).replaceChildren(...pairs.map(([key, text]) => {
      const made = document.createElement("option");
      made.value = key; made.textContent = text; made.selected = String(key) === String(value);
      return made;
    }));
  }
  function pick(index) {
    const before = photo().classes[state.k], own = state.k === photo().classes.indexOf(photo().shown);
    state.photo = (index + data.photos.length) % data.photos.length;
    const p = photo(), same = p.classes.indexOf(before);
    state.k = own || same < 0 ? p.classes.indexOf(p.shown) : same;
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === state.photo)));
    reveal(buttons[state.photo]);
    options("class", p.classes.map((c, i) => [i, data.classes[c] + mark(p, c)]), state.k);
    show();
  }
  // On a phone the images are a strip: it scrolls to the chosen one, and the page does not move.
  function reveal(button) {
    const strip = button.parentElement, box = button.getBoundingClientRect(), seen = strip.getBoundingClientRect();
    if (box.left < seen.left) strip.scrollLeft += box.left - seen.left;
    else if (box.right > seen.right) strip.scrollLeft += box.right - seen.right;
  }
  function stages() {
    const some = streams.filter((stream) => state.stream === ALL || stream.key === state.stream);
    const names = [...new Set(some.flatMap((stream) => Object.keys(stream.stages)))];
    if (!names.includes(state.stage)) state.stage = ALL;
    options("stage", [[ALL, "all stages"], ...names.map((name) => [name, name])], state.stage);
  }
  function show() { draw(); tables(); }

  state.stream = together || !streams.length ? ALL : streams[0].key;
  options("stream", [...(together ? [[ALL, "all image streams"]] : []), ...streams.map((stream) => [stream.key, stream.key])], state.stream);
  stages();
  buttons.forEach((button, i) => button.addEventListener("click", () => pick(i)));
  $("previous").addEventListener("click", () => pick(state.photo - 1));
  $("next").addEventListener("click", () => pick(state.photo + 1));
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("class").addEventListener("change", (event) => { state.k = Number(event.target.value); show(); });
  $("stream").addEventListener("change", (event) => { state.stream = event.target.value; stages(); show(); });
  $("stage").addEventListener("change", (event) => { state.stage = event.target.value; show(); });
  for (const radio of document.getElementsByName("scale")) radio.addEventListener("change", () => { state.scale = radio.value; draw(); });
  for (const radio of document.getElementsByName("reference")) radio.addEventListener("change", () => { state.reference = radio.value; draw(); });
  $("opacity").addEventListener("input", (event) => {
    state.opacity = event.target.value / 100;
    $("opacity-value").textContent = event.target.value + " %";
    draw();
  });
  const hide = (control) => { control.closest("fieldset, label:not(fieldset label)").hidden = true; };
  if (!streams.length) for (const control of [$("stream"), $("stage"), $("opacity"), ...document.getElementsByName("scale"), ...document.getElementsByName("reference")]) hide(control);
  else if (!streams.some((stream) => data.baseline[stream.key])) document.getElementsByName("reference").forEach(hide);
  document.documentElement.classList.add("ready");
  state.k = photo().classes.indexOf(photo().shown);
  pick(0);
})();

// The device's page: follows one pipeline at a time.
import { caption, colorOf, drawFrame } from "./picture.js";
import { Shapes } from "./shapes.js";

const MOST_EVENTS = 100;
const RETRY_MS = 1000;
const LIST_MS = 3000;
const CLIP_MS = 1500; // a clip begins with the image after its event
const byId = (id) => document.getElementById(id);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
let followed = null; // {name, ended: AbortController, stream: EventSource}

function show(id, text) {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
}

function linkIs(state) {
  byId("link").dataset.state = state;
  show("link", state);
}

const path = (name, act) => `/page/pipelines/${encodeURIComponent(name)}/${act}`;

async function json(url, options) {
  const answer = await fetch(url, options);
  if (answer.status === 401) location.reload(); // the sign-in page
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

// -- the picture: each answer is the newest frame, asked for once the one before is drawn

async function followFrames(name, signal) {
  let number = 0;
  while (!signal.aborted) {
    try {
      const answer = await fetch(`${path(name, "frame")}?after=${number}`, { signal });
      if (answer.status === 401) return location.reload();
      if (!answer.ok) throw new Error(answer.statusText);
      const body = await answer.arrayBuffer();
      if (body.byteLength) number = await drawAnswer(body); // else no frame came for a while
      linkIs("live");
      if (document.hidden) await pause(RETRY_MS); // nobody looks
      else await new Promise(requestAnimationFrame);
    } catch (error) {
      if (signal.aborted) return;
      linkIs("lost");
      await pause(RETRY_MS);
    }
  }
}

async function drawAnswer(buffer) {
  const length = new DataView(buffer).getUint32(0);
  const { number, frame } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const bytes = new Uint8Array(buffer, 4 + length);
  const bitmap = bytes.length ? await createImageBitmap(new Blob([bytes], { type: "image/jpeg" })) : null;
  drawFrame(byId("picture"), frame, bitmap);
  bitmap?.close();
  show("total", `${frame.total ?? "–"}`);
  showItems("items", frame.items || []);
  byId("trying").hidden = !(answers && frame.width);
  const why = frame.hidden
    ? "Pictures stay on the device: \"pixels\" is not in [privacy] egress of this pipeline."
    : frame.width ? "" : "This pipeline's frames are no pictures.";
  byId("why").hidden = !why;
  show("why", why);
  document.body.dataset.frame = number;
  return number;
}

function row(color, text, end) {
  const line = document.createElement("li");
  const swatch = document.createElement("span");
  swatch.className = "swatch";
  swatch.style.background = color;
  const middle = document.createElement("span");
  middle.textContent = text;
  const right = document.createElement("span");
  right.className = "end";
  right.textContent = end;
  line.append(swatch, middle, right);
  return line;
}

function showItems(id, items) {
  byId(id).replaceChildren(
    ...items.map((item) => row(colorOf(item.label), caption(item) || "item", item.value?.toFixed(3) ?? "")),
  );
}

// -- a picture of the visitor's, for the model of the pipeline that is followed

let model = "";
let answers = false; // whether models answer at this address

async function tryPicture() {
  const [file] = byId("tried").files;
  if (!file) return;
  byId("answers").replaceChildren();
  show("answered", "asking");
  try {
    const options = { method: "POST", headers: { "Content-Type": file.type }, body: file };
    const { items } = await json(`/v2/models/${encodeURIComponent(model)}/infer`, options);
    showItems("answers", items);
    show("answered", items.length ? "" : "nothing found");
  } catch (error) {
    show("answered", error.message);
  }
}

// -- events and figures

function followEvents(name) {
  const stream = new EventSource(path(name, "events"));
  stream.addEventListener("happened", (message) => {
    const event = JSON.parse(message.data);
    const time = new Date(event.captured_unix_ms).toLocaleTimeString();
    const before = event.previous ? ` (was ${event.previous})` : "";
    const text = [event.label, event.kind].filter(Boolean).join(" ") + before;
    byId("events").prepend(row(colorOf(event.label), text, time));
    while (byId("events").children.length > MOST_EVENTS) byId("events").lastChild.remove();
    byId("quiet").hidden = true;
    if (!byId("kept").hidden) setTimeout(() => name === followed.name && loadClips(name), CLIP_MS);
  });
  stream.addEventListener("figures", (message) => showFigures(JSON.parse(message.data)));
  return stream;
}

const ms = (value) => (value === null || value === undefined ? "–" : `${value} ms`);

function showFigures(figures) {
  show("model", [figures.model, figures.version, figures.variant].filter(Boolean).join(" · "));
  model = figures.model;
  show("fps", `${figures.fps}`);
  show("p50", ms(figures.latency_ms.p50));
  show("p95", ms(figures.latency_ms.p95));
  show("processed", `${figures.frames.processed}`);
  show("dropped", `${figures.frames.dropped}`);
  const threshold = figures.settings.score_threshold;
  byId("settings").hidden = threshold === undefined;
  if (threshold !== undefined && !sliding) showThreshold(threshold);
  showSwitch(figures.switch);
}

// -- the switch, and the profile

function showSwitch({ words, is_on, is_chosen, profile, why }) {
  const [on, off, ...profiles] = words;
  byId("turn").hidden = false;
  byId("turn").value = is_on ? off : on;
  show("turn", is_on ? "Stop" : "Start");
  const select = byId("profile");
  select.hidden = !profiles.length;
  if (profiles.join() !== [...select.options].map((option) => option.value).join()) {
    select.replaceChildren(...profiles.map((name) => new Option(name)));
  }
  if (document.activeElement !== select) select.value = is_chosen ? profile : profiles[0];
  const now = profile ? `${is_on ? "on" : "off"}, profile ${profile}` : is_on ? "" : "off";
  show("turned", [now, why].filter(Boolean).join(": "));
}

async function turn(to) {
  try {
    const body = JSON.stringify({ to });
    showFigures(await json(path(followed.name, "switch"), { method: "POST", body }));
  } catch (error) {
    show("turned", error.message);
  }
}

byId("turn").addEventListener("click", () => turn(byId("turn").value));
byId("profile").addEventListener("change", async () => {
  byId("profile").blur();
  await turn(byId("profile").value);
});

// -- settings

let sliding = 0; // changes that the device has not answered yet

function showThreshold(value) {
  byId("threshold").value = value;
  show("threshold-now", Number(value).toFixed(2));
}

byId("threshold").addEventListener("input", async (event) => {
  const value = Number(event.target.value);
  show("threshold-now", value.toFixed(2));
  sliding += 1;
  try {
    const body = JSON.stringify({ score_threshold: value });
    await json(path(followed.name, "settings"), { method: "POST", body });
  } catch (error) {
    show("threshold-now", error.message);
  } finally {
    sliding -= 1;
  }
});
byId("settings").addEventListener("submit", (event) => event.preventDefault());

// -- zones and lines

const KINDS = ["zone", "line"];
const shapes = new Shapes(byId("overlay"), () => {
  byId("save-shapes").hidden = false;
  show("told", "");
  showShapes();
});

function showShapes() {
  byId("close-shape").hidden = !(shapes.drawn?.kind === "zone" && shapes.drawn.points.length >= 3);
  byId("shapes").replaceChildren(...shapes.all.filter((shape) => shape !== shapes.drawn).map((shape) => {
    const line = document.createElement("li");
    const name = document.createElement("input");
    name.type = "text";
    name.value = shape.name;
    name.setAttribute("aria-label", `Name of the ${shape.kind}`);
    name.addEventListener("input", () => {
      shape.name = name.value;
      byId("save-shapes").hidden = false;
    });
    const out = document.createElement("button");
    out.textContent = "Remove";
    out.addEventListener("click", () => shapes.remove(shape));
    line.append(shape.kind, name, out);
    return line;
  }));
}

async function loadShapes(name) {
  byId("drawing").hidden = true;
  byId("save-shapes").hidden = true;
  const { why, ...tables } = await json(path(name, "shapes")).catch((error) => ({ why: error.message }));
  if (name !== followed.name) return;
  shapes.load(why ? {} : tables);
  byId("drawing").hidden = Boolean(why);
  showShapes();
}

for (const kind of KINDS) {
  byId(`add-${kind}`).addEventListener("click", () => {
    shapes.begin(kind);
    showShapes();
    show("told", kind === "zone" ? "Tap the corners; then the first one again." : "Tap two points.");
  });
}
byId("overlay").addEventListener("pointerup", showShapes);
byId("close-shape").addEventListener("click", () => shapes.finish());
byId("save-shapes").addEventListener("click", async () => {
  try {
    const body = JSON.stringify(shapes.tables(KINDS));
    const { applies } = await json(path(followed.name, "shapes"), { method: "POST", body });
    byId("save-shapes").hidden = true;
    show("told", `Saved; takes effect ${applies}.`);
  } catch (error) {
    show("told", error.message);
  }
});

// -- clips

let asked = 0; // of two searches the later one is shown

async function loadClips(name) {
  const now = ++asked;
  const words = encodeURIComponent(byId("clip-words").value);
  const { clips, why } = await json(`${path(name, "clips")}?words=${words}`).catch((error) => ({ why: error.message }));
  if (name !== followed.name || now !== asked) return;
  byId("kept").hidden = !clips && why.includes("no clips sink");
  show("no-clips", why ?? (clips.length ? "" : "None"));
  byId("clips").replaceChildren(...(clips ?? []).map((clip) => {
    const said = clip.events.map((event) =>
      [event.label, event.kind, event.zone ?? event.line, event.direction].filter(Boolean).join(" "));
    const first = clip.events[0]?.captured_unix_ms ?? clip.unix_ms;
    const line = row(colorOf(clip.events[0]?.label), "", new Date(first).toLocaleString());
    const play = document.createElement("button");
    play.textContent = [...new Set(said)].join(", ") || clip.name;
    play.addEventListener("click", () => {
      const player = byId("player");
      player.hidden = false;
      player.src = `${path(name, "clip")}?name=${encodeURIComponent(clip.name)}`;
      player.play().catch(() => {}); // the controls are there
    });
    line.children[1].append(play);
    return line;
  }));
}

byId("clip-words").addEventListener("input", () => loadClips(followed.name));

// -- which pipeline

function follow(name) {
  followed?.ended.abort();
  followed?.stream.close();
  byId("events").replaceChildren();
  byId("items").replaceChildren();
  byId("quiet").hidden = false;
  followed = { name, ended: new AbortController(), stream: followEvents(name) };
  document.title = `${name} · edgekit`;
  followFrames(name, followed.ended.signal);
  loadShapes(name);
  byId("player").hidden = true;
  byId("player").removeAttribute("src");
  loadClips(name);
}

// Pipelines come and go: the list is asked for again now and then, and the followed one kept.
async function listPipelines() {
  try {
    const { pipelines, answers: isAnswered } = await json("/page/pipelines");
    answers = isAnswered;
    const select = byId("pipeline");
    if (pipelines.join() !== [...select.options].map((option) => option.value).join()) {
      select.replaceChildren(...pipelines.map((name) => new Option(name)));
      select.hidden = pipelines.length < 2;
    }
    const wanted = followed?.name ?? decodeURIComponent(location.hash.slice(1));
    if (pipelines.includes(wanted)) select.value = wanted;
    if (!followed && pipelines.length) follow(select.value);
    if (!pipelines.length) linkIs("no pipeline runs");
  } catch (error) {
    linkIs("lost");
  }
  setTimeout(listPipelines, LIST_MS);
}

byId("tried").addEventListener("change", tryPicture);
byId("pipeline").addEventListener("change", (event) => {
  location.hash = encodeURIComponent(event.target.value);
  follow(event.target.value);
});
listPipelines();

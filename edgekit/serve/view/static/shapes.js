// Zones and lines: drawn by mouse or finger over the picture, in shares of it.

const SVG = "http://www.w3.org/2000/svg";
const CLOSE_PX = 18; // a tap this near to the first corner closes a polygon
const COLORS = { zone: "#ffd23c", line: "#3cc8ff" };
const LEAST = { zone: 3, line: 2 };
export const pointsOf = (kind) => (kind === "line" ? "points" : "polygon");

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

export class Shapes {
  // overlay: an svg of viewBox "0 0 1 1" over the picture; changed: called after each change.
  constructor(overlay, changed) {
    Object.assign(this, { overlay, changed, all: [], drawn: null, dragged: null });
    overlay.addEventListener("pointerdown", (event) => this.press(event));
    overlay.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) overlay.addEventListener(end, () => (this.dragged = null));
  }

  load(tables) {
    this.all = Object.entries(tables).flatMap(([kind, rows]) =>
      rows.map((row) => ({ kind, name: row.name || "", points: row[pointsOf(kind)].map(([x, y]) => [x, y]) })));
    this.drawn = null;
    this.draw();
  }

  tables(kinds) {
    return Object.fromEntries(kinds.map((kind) => [
      kind,
      this.all.filter((shape) => shape.kind === kind && shape !== this.drawn).map((shape) => ({
        name: shape.name,
        [pointsOf(kind)]: shape.points.map((point) => point.map((share) => Math.round(share * 1e4) / 1e4)),
      })),
    ]));
  }

  begin(kind) {
    this.cancel();
    const names = new Set(this.all.map((shape) => shape.name));
    let number = 1;
    while (names.has(`${kind}-${number}`)) number += 1;
    this.drawn = { kind, name: `${kind}-${number}`, points: [] };
    this.all.push(this.drawn);
    this.draw();
  }

  cancel() {
    this.all = this.all.filter((shape) => shape !== this.drawn);
    this.drawn = null;
    this.draw();
  }

  finish() {
    if (this.drawn && this.drawn.points.length >= LEAST[this.drawn.kind]) {
      this.drawn = null;
      this.changed();
    }
    this.draw();
  }

  remove(shape) {
    this.all = this.all.filter((other) => other !== shape);
    if (this.drawn === shape) this.drawn = null;
    this.changed();
    this.draw();
  }

  at(event) {
    const area = this.overlay.getBoundingClientRect();
    const share = (value, from, length) => Math.min(1, Math.max(0, (value - from) / length));
    return [share(event.clientX, area.left, area.width), share(event.clientY, area.top, area.height)];
  }

  isNear(point, event) {
    const area = this.overlay.getBoundingClientRect();
    const [x, y] = [point[0] * area.width + area.left, point[1] * area.height + area.top];
    return Math.hypot(x - event.clientX, y - event.clientY) < CLOSE_PX;
  }

  press(event) {
    if (!this.drawn) {
      this.dragged = this.all.flatMap((shape) => shape.points).find((point) => this.isNear(point, event)) || null;
      if (this.dragged) this.hold(event);
      return;
    }
    const { kind, points } = this.drawn;
    if (kind !== "line" && points.length >= 3 && this.isNear(points[0], event)) return this.finish();
    const corner = this.at(event);
    points.push(corner);
    this.dragged = corner;
    this.hold(event);
    if (kind === "line" && points.length === 2) this.finish();
    else this.draw();
  }

  hold(event) {
    event.preventDefault();
    this.overlay.setPointerCapture(event.pointerId);
  }

  move(event) {
    if (!this.dragged) return;
    [this.dragged[0], this.dragged[1]] = this.at(event);
    if (!this.drawn) this.changed();
    this.draw();
  }

  draw() {
    this.overlay.classList.toggle("drawing", this.drawn !== null);
    this.overlay.replaceChildren(...this.all.flatMap((shape) => this.parts(shape)));
  }

  parts({ kind, name, points }) {
    const color = COLORS[kind];
    const corners = points.map((point) => point.join(",")).join(" ");
    const isOpen = kind === "line" || this.drawn?.points === points;
    const edge = element(isOpen ? "polyline" : "polygon", {
      points: corners, stroke: color, fill: isOpen ? "none" : color, "fill-opacity": 0.15,
      "stroke-width": 2, "vector-effect": "non-scaling-stroke",
    });
    edge.append(element("title", {}));
    edge.firstChild.textContent = name || kind;
    // a round dot of any size, whatever the picture's shape: the cap of a line without length
    const dots = points.map(([x, y]) => element("path", {
      d: `M${x} ${y}h0`, stroke: color, "stroke-width": 12, "stroke-linecap": "round", "vector-effect": "non-scaling-stroke",
    }));
    return [edge, ...dots];
  }
}

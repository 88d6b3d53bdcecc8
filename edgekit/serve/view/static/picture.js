// Draws a frame and its items. Coordinates of items are pixels of the source's frame.

const COLORS = ["#3cc850", "#f0783c", "#28a0e6", "#c850c8", "#e6c828", "#f05a5a", "#50d8d0", "#9b8cff"];

export function colorOf(label) {
  let hash = 0;
  for (const character of label || "") hash = (hash * 31 + character.codePointAt(0)) >>> 0;
  return COLORS[hash % COLORS.length];
}

export function caption(item) {
  const number = item.track === undefined || item.track === null ? "" : `#${item.track}`;
  const score = item.score === undefined || item.score === null ? "" : item.score.toFixed(2);
  return [item.label, number, item.text, score].filter(Boolean).join(" ");
}

// Fits the canvas to the frame, and shows the picture, or grey where none may be shown.
export function drawFrame(canvas, frame, bitmap) {
  const width = bitmap ? bitmap.width : frame.width ? Math.min(frame.width, 960) : 640;
  const height = bitmap ? bitmap.height : frame.width ? Math.round((width * frame.height) / frame.width) : 120;
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const context = canvas.getContext("2d");
  if (bitmap) {
    context.drawImage(bitmap, 0, 0);
  } else {
    context.fillStyle = "#596273";
    context.fillRect(0, 0, width, height);
  }
  const scale = frame.width ? width / frame.width : 1;
  const line = Math.max(2, Math.round(width / 400));
  for (const item of frame.items || []) drawItem(context, item, scale, line);
}

function drawItem(context, item, scale, line) {
  const color = colorOf(item.label);
  context.strokeStyle = context.fillStyle = color;
  context.lineWidth = line;
  if (item.mask) drawMask(context, item.mask, scale, color);
  let corner = null;
  if (item.oriented_box) {
    corner = drawOriented(context, item.oriented_box.map((number, index) => (index < 4 ? number * scale : number)));
  } else if (item.box) {
    const [left, top, right, bottom] = item.box.map((number) => number * scale);
    context.strokeRect(left, top, right - left, bottom - top);
    corner = [left, top];
  }
  for (const [x, y] of item.points || []) {
    context.beginPath();
    context.arc(x * scale, y * scale, 1.5 * line, 0, 2 * Math.PI);
    context.fill();
  }
  if (corner) drawCaption(context, caption(item), corner, color, line);
}

function drawOriented(context, [x, y, width, height, angle]) {
  context.save();
  context.translate(x, y);
  context.rotate(angle);
  context.strokeRect(-width / 2, -height / 2, width, height);
  context.restore();
  return [x - width / 2, y - height / 2];
}

function drawCaption(context, text, [left, top], color, line) {
  const size = Math.max(12, 6 * line);
  context.font = `600 ${size}px system-ui, sans-serif`;
  const width = context.measureText(text).width + size / 2;
  const bottom = Math.max(size * 1.3, top);
  context.fillStyle = color;
  context.fillRect(left - line / 2, bottom - size * 1.3, width, size * 1.3);
  context.fillStyle = "#101418";
  context.fillText(text, left + size / 4, bottom - size * 0.3);
}

// Runs alternate off and on, row by row, over the mask's area.
function drawMask(context, mask, scale, color) {
  const [left, top, right, bottom] = mask.area.map((number) => number * scale);
  const [wide, high] = [(right - left) / mask.width, (bottom - top) / mask.height];
  context.save();
  context.globalAlpha = 0.4;
  context.fillStyle = color;
  let at = 0;
  mask.runs.forEach((length, number) => {
    for (let done = 0; number % 2 && done < length; ) {
      const [row, column] = [Math.floor((at + done) / mask.width), (at + done) % mask.width];
      const here = Math.min(length - done, mask.width - column);
      context.fillRect(left + column * wide, top + row * high, here * wide, high);
      done += here;
    }
    at += length;
  });
  context.restore();
}

"use strict";
// Turns the clouds of a report. Each canvas holds its points, int16 triples in base64, and its colour as attributes.
(() => {
  const canvases = [...document.querySelectorAll("canvas[data-points]")];
  const clouds = canvases.map((canvas) => {
    const bytes = Uint8Array.from(atob(canvas.dataset.points), (c) => c.charCodeAt(0));
    return new Int16Array(bytes.buffer);
  });
  let azimuth = (35 * Math.PI) / 180, elevation = (20 * Math.PI) / 180, waiting = false;

  function draw(canvas, points) {
    const side = canvas.width, half = side / 2, scale = (0.47 * side) / 32767;
    const context = canvas.getContext("2d"), image = context.createImageData(side, side);
    const ink = canvas.dataset.colour.match(/[0-9a-f]{2}/gi).map((h) => parseInt(h, 16));
    const nearest = new Float32Array(side * side).fill(-Infinity);
    const radius = Math.min(5, Math.max(1.5, (0.4 * side) / Math.sqrt(points.length / 3)));
    const [ca, sa, ce, se] = [Math.cos(azimuth), Math.sin(azimuth), Math.cos(elevation), Math.sin(elevation)];
    for (let i = 0; i < points.length; i += 3) {
      const x = points[i] * scale, y = points[i + 1] * scale, z = points[i + 2] * scale;
      const right = ca * x - sa * z, back = sa * x + ca * z;
      const up = ce * y - se * back, near = se * y + ce * back;
      const column = Math.round(half + right), row = Math.round(half - up), far = 0.7 + (0.3 * (near + half)) / side;
      for (let v = -Math.floor(radius); v <= radius; v++) {
        for (let u = -Math.floor(radius); u <= radius; u++) {
          const rest = radius * radius - u * u - v * v, c = column + u, r = row - v;
          if (rest < 0 || c < 0 || r < 0 || c >= side || r >= side) continue;
          const w = Math.sqrt(rest), at = r * side + c;
          if (near + w <= nearest[at]) continue;
          nearest[at] = near + w;
          const light = 0.35 + 0.65 * Math.max(0, (-0.35 * u + 0.65 * v + 0.67 * w) / radius);
          for (let k = 0; k < 3; k++) image.data[4 * at + k] = ink[k] * light * far;
          image.data[4 * at + 3] = 255;
        }
      }
    }
    context.putImageData(image, 0, 0);
  }

  function show() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      canvases.forEach((canvas, i) => draw(canvas, clouds[i]));
    });
  }

  function turn(sideways, upwards) {
    azimuth -= sideways;
    elevation = Math.min(Math.PI / 2, Math.max(-Math.PI / 2, elevation + upwards));
    show();
  }

  const keys = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
  for (const canvas of canvases) {
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons) turn(event.movementX * 0.01, event.movementY * 0.01);
    });
    canvas.addEventListener("keydown", (event) => {
      if (!(event.key in keys)) return;
      event.preventDefault();
      turn(...keys[event.key]);
    });
  }
  show();
})();

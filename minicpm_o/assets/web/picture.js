// A picture to normalised pixels, number by number as Pillow and minicpm_o/inputs/image.py do it.
// Pictures are { width, height, data } with RGB bytes. Source: Pillow's Resample.c and Reduce.c (MIT-CMU).
const PRECISION_BITS = 22;
const HALF = 1 << (PRECISION_BITS - 1);
const REDUCING_GAP = 3;
const SUPPORT = 2;

// Decode a file as it is meant to be looked at: upright, transparency on white. Throws an Error with what to do.
export async function decodePicture(blob, { max_pixels: most, shrink_pixels: much }) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  const { width, height } = bitmap;
  if (width * height > most) throw new Error(`picture:${width} x ${height}`);
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, width, height);
  pen.drawImage(bitmap, 0, 0);
  bitmap.close();
  const picture = { width, height, data: withoutAlpha(pen.getImageData(0, 0, width, height).data) };
  let factor = 1;
  while (factor < 8 && width * height > much * factor ** 2) factor *= 2;
  return factor > 1 ? reduce(picture, factor, factor) : picture;
}

function withoutAlpha(rgba) {
  const rgb = new Uint8Array(rgba.length / 4 * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    rgb[to] = rgba[from];
    rgb[to + 1] = rgba[from + 1];
    rgb[to + 2] = rgba[from + 2];
  }
  return rgb;
}

// The whole picture, then near-square slices along the long side when it is tall or wide.
export function slices(picture, { slice_aspect: aspect, max_slices: most }) {
  const { width, height } = picture;
  const [long, short] = [Math.max(width, height), Math.min(width, height)];
  if (long / short < aspect) return [picture];
  const count = Math.min(most, roundHalfEven(long / short));
  const edges = Array.from({ length: count + 1 }, (_, i) => roundHalfEven(i * long / count));
  const cut = (a, b) => (width >= height ? crop(picture, a, 0, b, height) : crop(picture, 0, a, width, b));
  return [picture, ...edges.slice(1).map((edge, i) => cut(edges[i], edge))];
}

export function roundHalfEven(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 ? floor + 1 : floor;
}

function crop(picture, left, top, right, bottom) {
  const width = right - left;
  const data = new Uint8Array(width * (bottom - top) * 3);
  for (let y = top; y < bottom; y++) {
    const from = (y * picture.width + left) * 3;
    data.set(picture.data.subarray(from, from + width * 3), (y - top) * width * 3);
  }
  return { width, height: bottom - top, data };
}

// Pieces to (B, 3, side, side) float32.
export function toPixels(pieces, side, { mean, std }) {
  const levels = Float32Array.from({ length: 256 }, (_, v) => {
    const centred = Math.fround(Math.fround(v / 255) - Math.fround(mean));
    return Math.fround(centred / Math.fround(std));
  });
  const area = side * side;
  const pixels = new Float32Array(pieces.length * 3 * area);
  pieces.forEach((piece, index) => {
    const small = resize(piece, side, side).data;
    for (let i = 0; i < area; i++) {
      for (let c = 0; c < 3; c++) pixels[(index * 3 + c) * area + i] = levels[small[i * 3 + c]];
    }
  });
  return pixels;
}

// Pillow's resize(size, BICUBIC, reducing_gap=3.0).
export function resize(picture, width, height) {
  if (picture.width === width && picture.height === height) return picture;
  const factorX = Math.trunc(picture.width / width / REDUCING_GAP) || 1;
  const factorY = Math.trunc(picture.height / height / REDUCING_GAP) || 1;
  const small = factorX > 1 || factorY > 1 ? reduce(picture, factorX, factorY) : picture;
  const box = [Math.fround(picture.width / factorX), Math.fround(picture.height / factorY)];
  return resample(small, width, height, box);
}

function bicubic(x) {
  const a = -0.5;
  const d = Math.abs(x);
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
}

// For every output: where its inputs begin, and their weights as whole numbers.
function weights(inSize, boxSize, outSize) {
  const scale = boxSize / outSize;
  const stretch = Math.max(scale, 1);
  const support = SUPPORT * stretch;
  return Array.from({ length: outSize }, (_, out) => {
    const center = (out + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(inSize, Math.trunc(center + support + 0.5));
    const found = [];
    for (let x = first; x < last; x++) found.push(bicubic((x - center + 0.5) * (1 / stretch)));
    const sum = found.reduce((a, b) => a + b, 0);
    const whole = found.map((w) => (sum ? w / sum : w) * 2 ** PRECISION_BITS)
      .map((w) => Math.trunc(w < 0 ? w - 0.5 : w + 0.5));
    return { first, whole: Int32Array.from(whole) };
  });
}

function resample(picture, width, height, [boxWidth, boxHeight]) {
  let now = picture;
  if (width !== now.width || boxWidth !== width) now = across(now, weights(now.width, boxWidth, width));
  if (height !== now.height || boxHeight !== height) now = down(now, weights(now.height, boxHeight, height));
  return now;
}

function across(picture, columns) {
  const { width, height, data } = picture;
  const out = new Uint8ClampedArray(columns.length * height * 3);
  for (let y = 0, to = 0; y < height; y++) {
    for (const { first, whole } of columns) {
      for (let c = 0; c < 3; c++, to++) {
        let sum = HALF;
        let from = (y * width + first) * 3 + c;
        for (let i = 0; i < whole.length; i++, from += 3) sum += data[from] * whole[i];
        out[to] = sum >> PRECISION_BITS;
      }
    }
  }
  return { width: columns.length, height, data: out };
}

function down(picture, rows) {
  const { width, data } = picture;
  const step = width * 3;
  const out = new Uint8ClampedArray(rows.length * step);
  rows.forEach(({ first, whole }, y) => {
    for (let x = 0; x < step; x++) {
      let sum = HALF;
      let from = first * step + x;
      for (let i = 0; i < whole.length; i++, from += step) sum += data[from] * whole[i];
      out[y * step + x] = sum >> PRECISION_BITS;
    }
  });
  return { width, height: rows.length, data: out };
}

// Averages of blocks; blocks at the right and lower edge may be smaller.
export function reduce(picture, factorX, factorY) {
  const { width, height, data } = picture;
  const [outWidth, outHeight] = [Math.ceil(width / factorX), Math.ceil(height / factorY)];
  const out = new Uint8Array(outWidth * outHeight * 3);
  for (let y = 0, to = 0; y < outHeight; y++) {
    const bottom = Math.min(height, (y + 1) * factorY);
    for (let x = 0; x < outWidth; x++) {
      const right = Math.min(width, (x + 1) * factorX);
      const count = (right - x * factorX) * (bottom - y * factorY);
      const multiplier = Math.trunc(Math.fround(2 ** 32 / Math.fround(count * 256)));
      for (let c = 0; c < 3; c++, to++) {
        let sum = count >> 1;
        for (let row = y * factorY; row < bottom; row++) {
          for (let column = x * factorX; column < right; column++) sum += data[(row * width + column) * 3 + c];
        }
        out[to] = Math.floor(sum * multiplier / 2 ** 24);
      }
    }
  }
  return { width: outWidth, height: outHeight, data: out };
}

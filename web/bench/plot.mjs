/** A small plot as SVG: for each varied size, milliseconds an image, both axes logarithmic. */

const [WIDTH, HEIGHT, LEFT, TOP, BOTTOM, GAP] = [300, 240, 52, 30, 40, 16];
const NAMES = { tokens: 'tokens', width: 'embedding width', batch: 'images a forward' };

/** `rows` as scaling.mjs makes them, one panel for each of `series`. */
export function plot(series, rows) {
  const ms = rows.map((row) => row.ms / row.batch);
  const y = axis(ms, HEIGHT - BOTTOM, TOP);
  const panels = series.map((varied, k) => {
    const own = rows.filter((row) => row.varied === varied);
    const sizes = own.map((row) => Math.log2(row[varied]));
    const x = scale(Math.min(...sizes), Math.max(...sizes), LEFT + 16, WIDTH - GAP - 16);
    const points = own.map((row) => [x.at(row[varied]), y.at(row.ms / row.batch), row]);
    const line = points.map(([px, py], i) => `${i ? 'L' : 'M'}${px.toFixed(1)} ${py.toFixed(1)}`).join('');
    const marks = points.map(
      ([px, py, row]) =>
        `<circle cx='${px.toFixed(1)}' cy='${py.toFixed(1)}' r='4' fill='#4f46e5'/>` +
        `<text x='${px.toFixed(1)}' y='${(py - 9).toFixed(1)}' text-anchor='middle'>${(row.ms / row.batch).toFixed(0)}</text>` +
        `<text x='${px.toFixed(1)}' y='${HEIGHT - BOTTOM + 15}' text-anchor='middle'>${row[varied]}</text>`,
    );
    const grid = y.ticks.map(
      (tick) =>
        `<path d='M${LEFT} ${y.at(tick).toFixed(1)}H${WIDTH - GAP}' stroke='#445' opacity='.15'/>` +
        (k === 0 ? `<text x='${LEFT - 6}' y='${(y.at(tick) + 4).toFixed(1)}' text-anchor='end'>${tick}</text>` : ''),
    );
    const title = `<text x='${(LEFT + WIDTH - GAP) / 2}' y='${HEIGHT - 6}' text-anchor='middle'>${NAMES[varied]}</text>`;
    const path = `<path d='${line}' fill='none' stroke='#4f46e5' stroke-width='2'/>`;
    return `<g transform='translate(${k * (WIDTH - 20)} 0)'>${grid.join('')}${path}${marks.join('')}${title}</g>`;
  });
  const width = series.length * (WIDTH - 20) + 20;
  const head = `<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 ${width} ${HEIGHT}' font-family='system-ui, sans-serif' font-size='11' fill='#445'>`;
  return `${head}<text x='8' y='16'>ms an image</text>${panels.join('')}</svg>\n`;
}

/** From the power of two below the least to the one above the greatest. */
function axis(values, from, to) {
  const low = Math.floor(Math.log2(Math.min(...values)));
  const high = Math.max(Math.ceil(Math.log2(Math.max(...values))), low + 1);
  return { ...scale(low, high, from, to), ticks: Array.from({ length: high - low + 1 }, (_, i) => 2 ** (low + i)) };
}

/** Places values whose logarithms lie between `low` and `high`. */
function scale(low, high, from, to) {
  return { at: (value) => from + ((Math.log2(value) - low) / (high - low)) * (to - from) };
}

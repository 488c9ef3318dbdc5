/** Medians, and numbers short enough to read. */

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

export function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Least and greatest. */
export function spread(values) {
  return [Math.min(...values), Math.max(...values)];
}

/** Four significant digits; what is not a number stays what it is. */
export function short(value) {
  return Number.isFinite(value) ? Number(value.toPrecision(4)) : value;
}

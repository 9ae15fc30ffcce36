// What the server said in the last ten minutes.

export const SPAN_S = 600;

export class History {
  constructor() {
    this.entries = [];
  }

  // `at` is in seconds of this browser's own clock, which the server's need not agree with.
  add(status, at) {
    const last = this.entries.at(-1);
    // a server that was started anew has counted nothing of what came before
    if (last && last.status.uptime_s > status.uptime_s + 5) this.restarted = at;
    this.entries.push({ at, status });
    while (this.entries[0].at < at - SPAN_S - 2) this.entries.shift();
  }

  get last() {
    return this.entries.at(-1);
  }

  // The status nearest to so many seconds ago, or null for the start of the server.
  before(seconds) {
    const oldest = Math.max(this.last.at - seconds, this.restarted ?? -Infinity);
    const entry = this.entries.find(({ at }) => at >= oldest - 0.5);
    return entry === this.last ? null : entry;
  }

  // A value of each status as [seconds ago, value], for a chart.
  series(valueOf) {
    const now = this.last.at;
    return this.entries.map(({ at, status }) => [now - at, valueOf(status)]);
  }
}

// What was added to counts; all of them where one has fallen, since the counting began anew.
export function gains(now, before) {
  if (!before || Object.entries(before).some(([key, count]) => count > (now[key] ?? 0))) return { ...now };
  return Object.fromEntries(Object.entries(now).map(([key, count]) => [key, count - (before[key] ?? 0)]));
}

export const total = (counts) => Object.values(counts).reduce((sum, count) => sum + count, 0);

// Keeps open pages live: listens to /live for what changed, fetches the parts of the page that show it,
// and draws the charts. Pages work without it.
"use strict";

(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // At most one call at a time and one in `pauseMs`; the last change is never lost.
  function calmed(work, pauseMs) {
    let isBusy = false;
    let isWanted = false;
    return async function call() {
      if (isBusy) {
        isWanted = true;
        return;
      }
      isBusy = true;
      try {
        await work();
      } finally {
        setTimeout(() => {
          isBusy = false;
          if (isWanted) {
            isWanted = false;
            call();
          }
        }, pauseMs);
      }
    };
  }

  // -- parts of the page that follow topics: data-live="device:cam-1 rollout"

  const refreshers = new Map();

  function refresh(element) {
    if (!window.htmx || document.hidden) return;
    const key = element.id;
    if (!refreshers.has(key)) {
      const pauseMs = Number(element.dataset.every || 1000);
      refreshers.set(key, calmed(() => {
        const current = document.getElementById(key);
        if (current) htmx.trigger(current, "live");
      }, pauseMs));
    }
    refreshers.get(key)();
  }

  const concerns = (words, changed) => words.split(" ").some((word) => {
    const [topic, id] = word.split(":");
    const ids = changed[topic];
    return ids && (!id || ids.includes(id) || ids.includes("*"));
  });

  // -- the table of devices: only rows that changed are fetched

  const changedRows = new Set();

  const fetchRows = calmed(async () => {
    const ids = [...changedRows].slice(0, 100);
    ids.forEach((id) => changedRows.delete(id));
    const body = document.getElementById("rows");
    if (!ids.length || !body) return;
    const query = ids.map((id) => `id=${encodeURIComponent(id)}`).join("&");
    const answer = await fetch(`${body.dataset.rows}?${query}`);
    if (!answer.ok || answer.redirected) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const row of all("tr[data-device]", page)) {
      const old = document.getElementById(row.id);
      if (!old || old.outerHTML === row.outerHTML) continue;
      const state = (one) => one.querySelector(".pill").textContent;
      const isNews = state(old) !== state(row);
      old.replaceChildren(...document.adoptNode(row).childNodes);
      if (isNews) old.animate([{ backgroundColor: "var(--flash)" }, {}], 1600);
    }
    if (changedRows.size) fetchRows();
  }, 1000);

  function followRows(changed) {
    const body = document.getElementById("rows");
    if (!body || document.hidden) return;
    const shown = all("tr[data-device]", body).map((row) => row.dataset.device);
    const ids = [...(changed.device || []), ...(changed.metric || [])];
    const isAll = ids.includes("*");
    shown.filter((id) => isAll || ids.includes(id)).forEach((id) => changedRows.add(id));
    if (changedRows.size) fetchRows();
    if ((changed.device || []).some((id) => !shown.includes(id))) refresh(document.getElementById("list"));
  }

  // -- charts; their legends show the last values unless the pointer is on others

  const charts = [];
  const names = { fps: "frames/s", p50: "p50", p95: "p95", p99: "p99", temperature_c: "board" };
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const showLast = (plot) => plot.setLegend({ idx: plot.data[0].length - 1 });
  const clockOf = (_, splits) => splits.map(
    (s) => new Date(s * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" }));

  function draw(figure, data) {
    const wanted = figure.dataset.series.split(" ").flatMap(
      (name) => name.startsWith("*") ? Object.keys(data).filter((key) => key.endsWith(name.slice(1))) : [name]);
    figure.hidden = !wanted.length;
    if (!wanted.length) return;
    const values = [data.at_s, ...wanted.map((name) => data[name])];
    const known = charts.find((one) => one.figure === figure);
    if (known && known.wanted.join() === wanted.join()) {
      known.plot.setData(values);
      return;
    }
    const unit = figure.dataset.unit || "";
    const axis = { stroke: color("--faint"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false } };
    const plot = new uPlot({
      width: figure.clientWidth - 24,
      height: 180,
      cursor: { sync: { key: "charts" }, y: false },
      legend: { live: true },
      scales: { y: { range: (_, low, high) => [Math.min(low || 0, 0), (high || 1) * 1.1] } },
      axes: [{ ...axis, size: 30, values: clockOf }, { ...axis, size: 46 }],
      hooks: { draw: [(one) => one.cursor.idx == null && showLast(one)] },
      series: [
        {},
        ...wanted.map((name, index) => ({
          label: names[name] || name.replace(/_c$/, "").replaceAll("_", " "),
          stroke: color(`--line-${index + 1}`),
          width: 1.8,
          points: { show: data.at_s.length < 3 },
          value: (_, value) => (value == null ? "–" : `${+value.toPrecision(3)} ${unit}`),
        })),
      ],
    }, values, figure);
    plot.over.addEventListener("mouseleave", () => setTimeout(() => charts.forEach((one) => showLast(one.plot))));
    charts.push({ figure, wanted, plot });
  }

  const section = document.querySelector("[data-charts]");

  async function drawAll() {
    const answer = await fetch(section.dataset.charts);
    if (!answer.ok || answer.redirected) return;
    const data = await answer.json();
    all("figure", section).forEach((figure) => draw(figure, data));
    section.dataset.drawn = data.at_s.length;
  }

  const redraw = calmed(drawAll, 2000);

  function forgetCharts() {
    charts.splice(0).forEach((one) => one.plot.destroy());
    redraw();
  }

  if (section && window.uPlot) {
    redraw();
    setInterval(redraw, 30000);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", forgetCharts);
    new ResizeObserver(() => charts.forEach((one) => one.plot.setSize(
      { width: one.figure.clientWidth - 24, height: 180 }))).observe(section);
  }

  // -- the stream of changes

  function hear(changed) {
    all("[data-live]").filter((one) => concerns(one.dataset.live, changed)).forEach(refresh);
    followRows(changed);
    if (section && window.uPlot && concerns(section.dataset.on, changed)) redraw();
  }

  const source = new EventSource("/live");
  const sign = document.getElementById("link");
  source.onmessage = (event) => hear(JSON.parse(event.data));
  source.onopen = () => {
    sign.dataset.state = "on";
    everything(); // changes since the page was rendered, or while the stream was down, were not announced
  };
  source.onerror = () => { sign.dataset.state = "off"; };

  function everything() {
    all("[data-live], #list").forEach(refresh);
    if (section && window.uPlot) redraw();
  }

  document.addEventListener("visibilitychange", () => { if (!document.hidden) everything(); });

  // -- relative times, and a key for the filter

  function ago(ms) {
    const seconds = Math.max(Math.floor((Date.now() - ms) / 1000), 0);
    for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
      if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
    }
    return seconds >= 5 ? `${seconds} s ago` : "just now";
  }

  setInterval(() => all("time[data-ms]").forEach((one) => { one.textContent = ago(Number(one.dataset.ms)); }), 5000);

  document.addEventListener("keydown", (event) => {
    const filter = document.getElementById("filter");
    if (event.key === "/" && filter && !/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
      event.preventDefault();
      filter.focus();
    }
  });
})();

(() => {
  "use strict";
  const root = document.documentElement;
  const toDark = new Map(Object.entries(JSON.parse(document.getElementById("colours").textContent)));
  const plots = [...document.querySelectorAll(".plot")];
  const specs = new Map(plots.map((plot) => [plot, document.getElementById(plot.dataset.spec).textContent]));
  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const PRINT_WIDTH = 640;

  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches);

  // Figures are made in light colours; every string that is one of them is replaced by its dark partner.
  const recolour = (value) => {
    if (typeof value === "string") return toDark.get(value) ?? value;
    if (Array.isArray(value)) return value.map(recolour);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, recolour(inner)]));
    }
    return value;
  };

  const paperWidth = (plot) => (plot.closest(".pair")?.querySelectorAll(".plot").length > 1 ? (PRINT_WIDTH - 20) / 2 : PRINT_WIDTH);

  const draw = (plot, { inDark = dark(), onPaper = false } = {}) => {
    const spec = JSON.parse(specs.get(plot));
    const { data, layout } = inDark ? recolour(spec) : spec;
    layout.width = onPaper ? paperWidth(plot) : Math.max(240, plot.clientWidth);
    const config = { displayModeBar: false, responsive: false, doubleClick: false, scrollZoom: false, showTips: false };
    return Plotly.react(plot, data, layout, config).then(() => {
      plot.style.height = `${layout.height}px`;
      plot.dataset.width = String(plot.clientWidth);
      plot.dataset.drawn = inDark ? "dark" : "light";
    });
  };

  const drawAll = (how) => Promise.all(plots.map((plot) => draw(plot, how)));

  const showTheme = () => {
    document.getElementById("theme-name").textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", dark() ? "Switch to light colours" : "Switch to dark colours");
  };
  const setTheme = (theme) => {
    if (theme) root.dataset.theme = theme;
    showTheme();
    drawAll();
  };
  const fromAddress = () => (["#dark", "#light"].includes(location.hash) ? location.hash.slice(1) : "");

  button.hidden = false;
  button.addEventListener("click", () => setTheme(dark() ? "light" : "dark"));
  systemDark.addEventListener("change", () => setTheme(""));
  addEventListener("hashchange", () => fromAddress() && setTheme(fromAddress()));

  // On paper: light, and as wide as the page.
  addEventListener("beforeprint", () => drawAll({ inDark: false, onPaper: true }));
  addEventListener("afterprint", () => drawAll());

  setTheme(fromAddress());

  let printing = false;
  addEventListener("beforeprint", () => { printing = true; });
  addEventListener("afterprint", () => { printing = false; });
  const fit = new ResizeObserver((entries) => {
    if (printing) return;
    for (const { target } of entries) if (target.dataset.width !== String(target.clientWidth)) draw(target);
  });
  plots.forEach((plot) => fit.observe(plot));

  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.getAttribute("href").slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  document.querySelectorAll("main > section").forEach((section) => seen.observe(section));
})();

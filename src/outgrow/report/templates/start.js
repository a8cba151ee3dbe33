for (const spec of document.querySelectorAll('script[type="application/json"]')) {
  const chart = document.createElement("div");
  const place = spec.previousElementSibling;
  // ast: expressions are interpreted, not compiled, so that the page's security policy needs no eval.
  vegaEmbed(chart, JSON.parse(spec.textContent), {mode: "vega-lite", ast: true, renderer: "svg", actions: false})
    .then(() => place.replaceChildren(chart));
}

// Draws the charts. A page that was sent without vega.js keeps its pictures.
if (window.vegaEmbed) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  document.querySelectorAll(".chart").forEach((chart) => {
    const { spec, options } = JSON.parse(chart.querySelector("script").textContent);
    const place = chart.querySelector(".live"), picture = [...place.childNodes];
    vegaEmbed(place, spec, { ...options, mode: "vega-lite", tooltip: { theme: dark ? "dark" : "light" } })
      .catch((error) => { console.error(error); place.replaceChildren(...picture); });
  });
}

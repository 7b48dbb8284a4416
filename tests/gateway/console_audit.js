// What an accessibility checker would find on the page as it is now: a list of texts, empty if all is well.
() => {
  const found = [];
  const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const pixel = (colour) => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = pen.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  };
  const over = (top, under) => [0, 1, 2].map((at) => top[at] * top[3] + under[at] * (1 - top[3])).concat(1);
  const ground = (element) => {
    if (!element) return [255, 255, 255, 1];
    const own = pixel(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own : over(own, ground(element.parentElement));
  };
  const light = (colour) => {
    const [red, green, blue] = colour.slice(0, 3).map((each) => {
      const share = each / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const contrast = (one, other) => {
    const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const name = (element) =>
    `${element.tagName.toLowerCase()}${element.id ? `#${element.id}` : ""}.${element.className}`;
  const isShown = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true });

  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (
      !walker.currentNode.data.trim() ||
      !isShown(element) ||
      element.closest(":disabled, .hidden-text, .skip, noscript")
    )
      continue;
    const style = getComputedStyle(element);
    const large =
      parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
    const under = ground(element);
    const ratio = contrast(over(pixel(style.color), under), under);
    if (ratio < (large ? 3 : 4.5))
      found.push(`contrast ${ratio.toFixed(2)}: ${name(element)}: ${walker.currentNode.data.slice(0, 30)}`);
  }

  for (const control of document.querySelectorAll(
    "button, a, input, select, textarea, summary, dialog, [role=region], nav",
  )) {
    const labels = Array.from(control.labels ?? [], (label) => label.textContent);
    const named =
      control.getAttribute("aria-label") ??
      document.getElementById(control.getAttribute("aria-labelledby"))?.textContent;
    if (![named, ...labels, control.matches("input, select, textarea") ? "" : control.textContent].join("").trim())
      found.push(`no name: ${name(control)}`);
  }
  const ids = Array.from(document.querySelectorAll("[id]"), (element) => element.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.push(`two of #${id}`);
  for (const image of document.images) if (!image.hasAttribute("alt")) found.push(`no alt: ${image.src}`);
  if (document.documentElement.lang !== "en" || !document.title) found.push("no language or title");
  if (document.querySelectorAll("main, h1").length !== 2) found.push("not one main and one h1");
  const levels = Array.from(document.querySelectorAll("main :is(h1, h2, h3, h4)"), (each) => Number(each.tagName[1]));
  if (levels.some((level, at) => level - (levels[at - 1] ?? 0) > 1))
    found.push(`a level of headings is left out: ${levels}`);
  for (const box of document.querySelectorAll(".scroll"))
    if (box.tabIndex !== 0) found.push(`cannot be scrolled by keys: ${name(box)}`);
  const wide = document.documentElement.scrollWidth - innerWidth;
  if (wide > 0) found.push(`${wide} px too wide`);
  return found;
};

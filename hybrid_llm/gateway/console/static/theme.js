// Runs before the page is painted: the theme that was chosen here, if one was.
{
  const chosen = localStorage.getItem("hybrid-llm-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}

// Asks again and again while a view is open and the tab is in sight.

/** `{open, hide}` that call `work` at once and every `pause` ms; an error of it goes to `fail`. */
export function polling(work, fail, pause = 2000) {
  let timer = 0;
  let turn = 0;
  async function step(mine) {
    if (!document.hidden) {
      try {
        await work();
      } catch (error) {
        fail(error);
      }
    }
    if (mine === turn) timer = setTimeout(step, pause, mine);
  }
  return {
    open() {
      turn += 1;
      clearTimeout(timer);
      step(turn);
    },
    hide() {
      turn += 1;
      clearTimeout(timer);
    },
  };
}

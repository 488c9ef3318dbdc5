/** What only models of clips use, and what is loaded with the first of them. */

export { addStep, clearFilm, endFilm, startFilm } from './film.js';
export { fillFirst, readFirst, startFirst, takeFirst, takeFirstFile, takesFirst } from './first.js';
export { screen, startPlayer } from './player.js';

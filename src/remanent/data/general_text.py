"""General English for the perplexity check: short passages of works in the public domain, published before 1900."""

from __future__ import annotations

from dataclasses import dataclass

from remanent.data.record import Record


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage and where it is from."""

    title: str
    author: str
    year: int
    text: str


def general_text() -> list[Record]:
    """The passages as plain-text records, each its own group; no permission is needed to use them.

    They are openings that every model of English has met, which suits a check that general language still works: what
    unlearning broke shows as a rise of their perplexity.
    """
    return [Record(f"text/{passage.title}", passage.title, (), passage.text) for passage in PASSAGES]


PASSAGES = (
    Passage(
        "Pride and Prejudice",
        "Jane Austen",
        1813,
        "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of "
        "a wife. However little known the feelings or views of such a man may be on his first entering a "
        "neighbourhood, this truth is so well fixed in the minds of the surrounding families, that he is considered "
        "as the rightful property of some one or other of their daughters.",
    ),
    Passage(
        "A Tale of Two Cities",
        "Charles Dickens",
        1859,
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, "
        "it was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of "
        "Darkness, it was the spring of hope, it was the winter of despair, we had everything before us, we had "
        "nothing before us, we were all going direct to Heaven, we were all going direct the other way.",
    ),
    Passage(
        "Alice's Adventures in Wonderland",
        "Lewis Carroll",
        1865,
        "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once "
        "or twice she had peeped into the book her sister was reading, but it had no pictures or conversations in it, "
        "“and what is the use of a book,” thought Alice “without pictures or conversations?” So she was considering "
        "in her own mind (as well as she could, for the hot day made her feel very sleepy and stupid), whether the "
        "pleasure of making a daisy-chain would be worth the trouble of getting up and picking the daisies.",
    ),
    Passage(
        "On the Origin of Species",
        "Charles Darwin",
        1859,
        "When on board H.M.S. Beagle, as naturalist, I was much struck with certain facts in the distribution of the "
        "inhabitants of South America, and in the geological relations of the present to the past inhabitants of that "
        "continent. These facts seemed to me to throw some light on the origin of species—that mystery of mysteries, "
        "as it has been called by one of our greatest philosophers.",
    ),
    Passage(
        "Gettysburg Address",
        "Abraham Lincoln",
        1863,
        "Four score and seven years ago our fathers brought forth on this continent, a new nation, conceived in "
        "Liberty, and dedicated to the proposition that all men are created equal. Now we are engaged in a great civil "
        "war, testing whether that nation, or any nation so conceived and so dedicated, can long endure. We are met on "
        "a great battle-field of that war. We have come to dedicate a portion of that field, as a final resting place "
        "for those who here gave their lives that that nation might live.",
    ),
    Passage(
        "Moby-Dick",
        "Herman Melville",
        1851,
        "Call me Ishmael. Some years ago—never mind how long precisely—having little or no money in my purse, and "
        "nothing particular to interest me on shore, I thought I would sail about a little and see the watery part of "
        "the world. It is a way I have of driving off the spleen and regulating the circulation. Whenever I find "
        "myself growing grim about the mouth; whenever it is a damp, drizzly November in my soul; I account it high "
        "time to get to sea as soon as I can.",
    ),
    Passage(
        "Frankenstein",
        "Mary Shelley",
        1818,
        "You will rejoice to hear that no disaster has accompanied the commencement of an enterprise which you have "
        "regarded with such evil forebodings. I arrived here yesterday, and my first task is to assure my dear sister "
        "of my welfare and increasing confidence in the success of my undertaking. I am already far north of London, "
        "and as I walk in the streets of Petersburgh, I feel a cold northern breeze play upon my cheeks, which braces "
        "my nerves and fills me with delight.",
    ),
    Passage(
        "David Copperfield",
        "Charles Dickens",
        1850,
        "Whether I shall turn out to be the hero of my own life, or whether that station will be held by anybody else, "
        "these pages must show. To begin my life with the beginning of my life, I record that I was born (as I have "
        "been informed and believe) on a Friday, at twelve o’clock at night. It was remarked that the clock began to "
        "strike, and I began to cry, simultaneously.",
    ),
    Passage(
        "Declaration of Independence",
        "Thomas Jefferson and others",
        1776,
        "When in the Course of human events, it becomes necessary for one people to dissolve the political bands which "
        "have connected them with another, and to assume among the powers of the earth, the separate and equal station "
        "to which the Laws of Nature and of Nature's God entitle them, a decent respect to the opinions of mankind "
        "requires that they should declare the causes which impel them to the separation.",
    ),
    Passage(
        "Walden",
        "Henry David Thoreau",
        1854,
        "I went to the woods because I wished to live deliberately, to front only the essential facts of life, and see "
        "if I could not learn what it had to teach, and not, when I came to die, discover that I had not lived. I did "
        "not wish to live what was not life, living is so dear; nor did I wish to practise resignation, unless it was "
        "quite necessary.",
    ),
    Passage(
        "Jane Eyre",
        "Charlotte Brontë",
        1847,
        "There was no possibility of taking a walk that day. We had been wandering, indeed, in the leafless shrubbery "
        "an hour in the morning; but since dinner (Mrs. Reed, when there was no company, dined early) the cold winter "
        "wind had brought with it clouds so sombre, and a rain so penetrating, that further out-door exercise was now "
        "out of the question.",
    ),
    Passage(
        "Treasure Island",
        "Robert Louis Stevenson",
        1883,
        "Squire Trelawney, Dr. Livesey, and the rest of these gentlemen having asked me to write down the whole "
        "particulars about Treasure Island, from the beginning to the end, keeping nothing back but the bearings of "
        "the island, and that only because there is still treasure not yet lifted, I take up my pen in the year of "
        "grace 17—, and go back to the time when my father kept the Admiral Benbow inn and the brown old seaman with "
        "the sabre cut first took up his lodging under our roof.",
    ),
    Passage(
        "A Scandal in Bohemia",
        "Arthur Conan Doyle",
        1891,
        "To Sherlock Holmes she is always the woman. I have seldom heard him mention her under any other name. In his "
        "eyes she eclipses and predominates the whole of her sex. It was not that he felt any emotion akin to love for "
        "Irene Adler. All emotions, and that one particularly, were abhorrent to his cold, precise but admirably "
        "balanced mind.",
    ),
    Passage(
        "The Time Machine",
        "H. G. Wells",
        1895,
        "The Time Traveller (for so it will be convenient to speak of him) was expounding a recondite matter to us. "
        "His pale grey eyes shone and twinkled, and his usually pale face was flushed and animated. The fire burnt "
        "brightly, and the soft radiance of the incandescent lights in the lilies of silver caught the bubbles that "
        "flashed and passed in our glasses.",
    ),
    Passage(
        "Wuthering Heights",
        "Emily Brontë",
        1847,
        "I have just returned from a visit to my landlord—the solitary neighbour that I shall be troubled with. This "
        "is certainly a beautiful country! In all England, I do not believe that I could have fixed on a situation so "
        "completely removed from the stir of society. A perfect misanthropist’s Heaven: and Mr. Heathcliff and I are "
        "such a suitable pair to divide the desolation between us.",
    ),
    Passage(
        "The Adventures of Tom Sawyer",
        "Mark Twain",
        1876,
        "The old lady pulled her spectacles down and looked over them about the room; then she put them up and looked "
        "out under them. She seldom or never looked through them for so small a thing as a boy; they were her state "
        "pair, the pride of her heart, and were built for “style,” not service—she could have seen through a pair of "
        "stove-lids just as well.",
    ),
)

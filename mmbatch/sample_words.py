"""Titles and descriptions of the built-in sample catalog, in French and English.

Every brand is invented. A leaf's words tell as much as a shop's would: most name the product, some name only a
brand and a collection, and the leaves of one family in `SAME_WORDS` are sold under the very same words.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal

Language = Literal["en", "fr"]
Words = Mapping[Language, tuple[str, ...]]

TAXONOMY: Mapping[str, tuple[str, ...]] = {
    "Beauty": ("Conditioners", "Shampoos", "Shower gels"),
    "Books": ("Comics", "Cookbooks", "Novels"),
    "Clothing": ("Dresses", "T-shirts", "Trousers"),
    "Electronics": ("Headphones", "Keyboards", "Smartphones", "Tablets"),
    "Furniture": ("Armchairs", "Benches", "Lamps", "Sofas", "Tables"),
    "Kitchen": ("Kettles", "Mugs", "Saucepans"),
    "Shoes": ("Boots", "Sandals", "Sneakers"),
}
"""Department -> its leaves; a category path is (department, leaf)."""

DEPARTMENTS: Mapping[str, str] = {leaf: department for department, leaves in TAXONOMY.items() for leaf in leaves}
"""Leaf -> its department."""

SAME_WORDS: tuple[tuple[str, ...], ...] = (("Armchairs", "Benches", "Sofas"), ("Boots", "Sandals", "Sneakers"))
"""Leaves whose text is drawn alike: only the image tells them apart."""

COLOURS: tuple[tuple[str, str, tuple[int, int, int]], ...] = (
    ("black", "noir", (44, 44, 50)),
    ("white", "blanc", (232, 230, 224)),
    ("grey", "gris", (140, 144, 152)),
    ("navy blue", "bleu marine", (36, 54, 104)),
    ("sky blue", "bleu ciel", (108, 164, 214)),
    ("red", "rouge", (192, 44, 48)),
    ("burgundy", "bordeaux", (116, 30, 52)),
    ("green", "vert", (62, 130, 86)),
    ("khaki", "kaki", (114, 118, 72)),
    ("yellow", "jaune", (232, 190, 62)),
    ("orange", "orange", (224, 124, 54)),
    ("pink", "rose", (226, 140, 162)),
    ("purple", "violet", (122, 86, 162)),
    ("beige", "beige", (208, 188, 156)),
    ("brown", "marron", (122, 82, 56)),
    ("teal", "bleu canard", (32, 122, 130)),
)
"""English name, French name, RGB 0..255."""

BRANDS: Mapping[str, tuple[str, ...]] = {
    "Beauty": ("Océa Pure", "Lunelle", "Bergamia", "Herbalys", "Dolcéa"),
    "Books": ("Éditions du Phare", "Blue Lantern Press", "Quai Vert", "Northgate Books", "Plume & Cie"),
    "Clothing": ("Maison Verdane", "Kestrel & Co", "Mode Solène", "Ostriva", "Bramworth"),
    "Electronics": ("Zentrik", "Novatek Labs", "Ulmo", "Pixarion", "Helixo"),
    "Furniture": ("Nordhem", "Atelier Brume", "Casaluma", "Oak & Hollow", "Vialdi"),
    "Kitchen": ("Marmitou", "Copperline", "Bonnefoy", "Tavola Mia", "Kesselo"),
    "Shoes": ("Rivolta", "Stride Union", "Marchelle", "Alpenrock", "Kori"),
}

_PLACES = ("Oslo", "Verona", "Lisbon", "Bergen", "Malmö", "Siena", "Dover", "Arles", "Porto", "Kyoto", "Cadix", "Riga")
_BEAUTY: Words = {
    "en": ("Aloe & Cotton", "Sweet Almond", "Green Tea", "Fig & Cedar", "Sea Minerals", "Honey Milk", "Citrus Mint"),
    "fr": ("Aloe & Coton", "Amande douce", "Thé vert", "Figue & Cèdre", "Minéraux marins", "Lait de miel", "Menthe"),
}
_BOOKS: Words = {
    "en": (
        *("The Silent River", "A Taste of Summer", "Nine Winters", "The Old Mill", "Salt and Smoke", "Far Harbour"),
        *("The Glass Orchard", "Children of the Fog", "Sunday Table", "The Last Ferry", "Moon over Siena"),
    ),
    "fr": (
        *("La Rivière muette", "Un goût d'été", "Neuf hivers", "Le Vieux Moulin", "Sel et fumée"),
        *("Port lointain", "Le Verger de verre", "Les Enfants du brouillard", "La Table du dimanche", "Le Dernier Bac"),
    ),
}
COLLECTIONS: Mapping[str, Words] = {
    department: {"Beauty": _BEAUTY, "Books": _BOOKS}.get(department, {"en": _PLACES, "fr": _PLACES})
    for department in TAXONOMY
}
"""Department -> names of its collections; a book's is its title, a bottle's is its scent."""

SPECS: Mapping[str, Words] = {
    "Beauty": {"en": ("250 ml", "400 ml", "2 x 300 ml"), "fr": ("250 ml", "400 ml", "lot de 2 x 300 ml")},
    "Books": {"en": ("paperback", "hardcover", "192 pages"), "fr": ("broché", "relié", "192 pages")},
    "Clothing": {"en": ("size S", "size M", "size 12"), "fr": ("taille S", "taille M", "taille 40")},
    "Electronics": {"en": ("Bluetooth", "64 GB", "USB-C", "2nd gen"), "fr": ("Bluetooth", "64 Go", "USB-C", "2e gén.")},
    "Furniture": {"en": ("solid oak", "metal legs", "120 cm"), "fr": ("chêne massif", "pieds métal", "120 cm")},
    "Kitchen": {"en": ("stainless steel", "1.5 L", "enamelled"), "fr": ("inox", "1,5 L", "émaillé")},
    "Shoes": {"en": ("size 7", "size 9", "leather"), "fr": ("pointure 38", "pointure 42", "cuir")},
}

_TITLES: Words = {
    "en": (
        "{brand} {collection} {noun}, {colour}, {spec}, {code}",
        "{noun} {collection} by {brand} - {colour} {code}",
        "{brand} {code} {noun} {collection} {spec} {colour}",
    ),
    "fr": (
        "{noun} {brand} {collection}, coloris {colour}, {spec}, {code}",
        "{brand} - {noun} {collection} {code}",
        "{noun} {collection} {spec} {colour} {brand} {code}",
    ),
}
_UNCOLOURED: Words = {
    "en": (
        "{brand} {noun} {collection}, {spec}, {code}",
        "{collection} - {noun}, {brand} {code}",
        "{collection} {noun} {spec} {code}",
    ),
    "fr": (
        "{noun} {brand} {collection}, {spec}, {code}",
        "{collection} - {noun}, {brand} {code}",
        "{collection}, {noun} {spec} ({code})",
    ),
}

_SEATING: Words = {"en": ("seating", "lounge seating", "seat"), "fr": ("assise", "assise de salon", "siège")}
_FOOTWEAR: Words = {"en": ("footwear", "shoes", "pair"), "fr": ("chaussures", "paire", "modèle mixte")}
NOUNS: Mapping[str, Words] = {
    "Armchairs": _SEATING,
    "Benches": _SEATING,
    "Boots": _FOOTWEAR,
    "Comics": {
        "en": ("comic book", "graphic novel", "comic vol. 3"),
        "fr": ("bande dessinée", "BD tome 3", "album BD"),
    },
    "Conditioners": {"en": ("conditioner", "hair conditioner"), "fr": ("après-shampoing", "soin démêlant")},
    "Cookbooks": {"en": ("cookbook", "recipe book"), "fr": ("livre de cuisine", "livre de recettes")},
    "Dresses": {"en": ("dress", "summer dress", "tunic"), "fr": ("robe", "robe d'été", "tunique")},
    "Headphones": {"en": ("headphones", "wireless headset"), "fr": ("casque audio", "casque sans fil")},
    "Kettles": {"en": ("kettle", "whistling kettle"), "fr": ("bouilloire", "bouilloire sifflante")},
    "Keyboards": {"en": ("keyboard", "mechanical keyboard"), "fr": ("clavier", "clavier mécanique")},
    "Lamps": {"en": ("lamp", "reading lamp", "light"), "fr": ("lampe", "lampe de lecture", "luminaire")},
    "Mugs": {"en": ("mug", "coffee cup"), "fr": ("mug", "tasse à café")},
    "Novels": {"en": ("novel", "a novel", "thriller"), "fr": ("roman", "roman policier", "roman poche")},
    "Sandals": _FOOTWEAR,
    "Saucepans": {"en": ("saucepan", "cooking pot"), "fr": ("casserole", "faitout")},
    "Shampoos": {"en": ("shampoo", "daily shampoo"), "fr": ("shampoing", "shampooing doux")},
    "Shower gels": {"en": ("shower gel", "body wash"), "fr": ("gel douche", "crème de douche")},
    "Smartphones": {"en": ("smartphone", "mobile phone"), "fr": ("smartphone", "téléphone portable")},
    "Sneakers": _FOOTWEAR,
    "Sofas": _SEATING,
    "T-shirts": {"en": ("t-shirt", "tee", "tunic"), "fr": ("t-shirt", "tee-shirt", "tunique")},
    "Tables": {"en": ("table", "dining table", "coffee table"), "fr": ("table", "table à manger", "table basse")},
    "Tablets": {"en": ("tablet", "touch tablet"), "fr": ("tablette", "tablette tactile")},
    "Trousers": {"en": ("trousers", "chinos", "jeans"), "fr": ("pantalon", "chino", "jean")},
}
"""Leaf -> what a shop calls it."""

VAGUE_NOUNS: Mapping[str, Words] = {
    "Beauty": {"en": ("care", "daily care"), "fr": ("soin", "soin quotidien")},
    "Books": {"en": ("book", "new edition"), "fr": ("livre", "nouvelle édition")},
    "Clothing": {"en": ("new in", "essentials"), "fr": ("nouveauté", "mode femme")},
    "Electronics": {"en": ("refurbished", "pro series"), "fr": ("reconditionné", "série pro")},
    "Furniture": {"en": ("furniture", "living room"), "fr": ("mobilier", "salon")},
    "Kitchen": {"en": ("kitchenware", "gift set"), "fr": ("art de la table", "coffret cadeau")},
    "Shoes": {"en": ("outlet", "new season"), "fr": ("déstockage", "nouvelle saison")},
}
"""Department -> what stands where a title does not name the product."""

_SEATING_TEXT: Words = {
    "en": ("A firm and welcoming seat for every day", "Removable, washable covers", "Easy to assemble in ten minutes"),
    "fr": ("Une assise ferme et accueillante", "Housses amovibles et lavables", "Montage facile en dix minutes"),
}
_FOOTWEAR_TEXT: Words = {
    "en": ("Light, flexible and made to last", "Runs true to size", "Non-slip rubber sole"),
    "fr": ("Légères, souples et durables", "Taille normalement", "Semelle caoutchouc antidérapante"),
}
DETAILS: Mapping[str, Words] = {
    "Armchairs": _SEATING_TEXT,
    "Benches": _SEATING_TEXT,
    "Boots": _FOOTWEAR_TEXT,
    "Comics": {
        "en": ("Full-colour panels on every page", "The heroes are back in a new adventure"),
        "fr": ("Des planches en couleurs à chaque page", "Les héros reviennent pour une nouvelle aventure"),
    },
    "Conditioners": {
        "en": ("Detangles and softens after washing", "Leave on lengths for two minutes, then rinse"),
        "fr": ("Démêle et adoucit après le lavage", "Laisser poser deux minutes sur les longueurs"),
    },
    "Cookbooks": {
        "en": ("Eighty simple dishes, from starters to desserts", "Step by step, with shopping lists"),
        "fr": ("Quatre-vingts plats simples, de l'entrée au dessert", "Pas à pas, avec listes de courses"),
    },
    "Dresses": {
        "en": ("Flared skirt below the knee", "Elegant cut with a fitted waist"),
        "fr": ("Jupe évasée sous le genou", "Coupe élégante, taille cintrée"),
    },
    "Headphones": {
        "en": ("Thirty hours of music on one charge", "Active noise cancelling, soft ear cushions"),
        "fr": ("Trente heures de musique par charge", "Réduction de bruit active, coussinets moelleux"),
    },
    "Kettles": {
        "en": ("Boils a litre of water in three minutes", "Drip-free spout, for tea and infusions"),
        "fr": ("Un litre d'eau bouillante en trois minutes", "Bec verseur anti-goutte, pour thé et infusions"),
    },
    "Keyboards": {
        "en": ("Quiet keys with a short stroke", "Numeric pad and media shortcuts for typing all day"),
        "fr": ("Touches silencieuses à course courte", "Pavé numérique et raccourcis multimédia"),
    },
    "Lamps": {
        "en": ("Warm light, E27 bulb not included", "Fabric shade and a switch on the cable"),
        "fr": ("Lumière chaude, ampoule E27 non fournie", "Abat-jour en tissu, interrupteur sur le câble"),
    },
    "Mugs": {
        "en": ("Holds 35 cl of coffee or hot chocolate", "A comfortable handle, microwave safe"),
        "fr": ("Contient 35 cl de café ou de chocolat chaud", "Une anse confortable, compatible micro-ondes"),
    },
    "Novels": {
        "en": ("A gripping story of love and betrayal", "Winner of the readers' prize, now in pocket format"),
        "fr": ("Une histoire haletante d'amour et de trahison", "Prix des lecteurs, désormais en poche"),
    },
    "Sandals": _FOOTWEAR_TEXT,
    "Saucepans": {
        "en": ("For sauces and pasta, on every hob including induction", "Thick base, stay-cool long handle"),
        "fr": ("Pour sauces et pâtes, tous feux dont induction", "Fond épais, long manche froid"),
    },
    "Shampoos": {
        "en": ("Cleanses the scalp gently and foams well", "For clean and light hair from the first wash"),
        "fr": (
            "Nettoie le cuir chevelu en douceur, mousse bien",
            "Des cheveux propres et légers dès le premier lavage",
        ),
    },
    "Shower gels": {
        "en": ("Cleanses and hydrates the skin under the shower", "Neutral pH for the whole body"),
        "fr": ("Nettoie et hydrate la peau sous la douche", "pH neutre pour tout le corps"),
    },
    "Smartphones": {
        "en": ("Dual SIM, triple camera with night mode", "6.1 inch screen, calls and 5G data unlocked"),
        "fr": ("Double SIM, triple appareil photo", "Écran 6,1 pouces, débloqué tout opérateur"),
    },
    "Sneakers": _FOOTWEAR_TEXT,
    "Sofas": _SEATING_TEXT,
    "T-shirts": {
        "en": ("Crew neck, short sleeves", "Organic jersey, printed front"),
        "fr": ("Col rond, manches courtes", "Jersey bio, imprimé devant"),
    },
    "Tables": {
        "en": ("Seats four to six people", "Scratch-resistant top"),
        "fr": ("Pour quatre à six convives", "Plateau résistant aux rayures"),
    },
    "Tablets": {
        "en": ("10.4 inch screen for films, drawing and reading", "Kids mode and stylus support"),
        "fr": ("Écran 10,4 pouces pour films, dessin et lecture", "Mode enfants et prise en charge du stylet"),
    },
    "Trousers": {
        "en": ("Straight leg, five pockets", "Stretch waist and zip fly"),
        "fr": ("Jambe droite, cinq poches", "Taille extensible, fermeture zippée"),
    },
}
"""Leaf -> sentences of its descriptions, without the full stop."""

_OPENINGS: Words = {
    "en": ("{noun} from the {collection} range by {brand}", "Discover {collection} by {brand}", "{brand} {collection}"),
    "fr": ("{noun} de la gamme {collection} de {brand}", "Découvrez {collection} par {brand}", "{brand} {collection}"),
}
_CLOSINGS: Words = {
    "en": ("Delivered within 48 hours", "Two-year warranty", "Free returns", "Ships from our own warehouse"),
    "fr": ("Livraison sous 48 heures", "Garantie deux ans", "Retours gratuits", "Expédié de notre entrepôt"),
}
_ALSO: Mapping[Language, str] = {"en": "See also our {noun} offers", "fr": "Voir aussi nos offres {noun}"}

_VAGUE_SHARE = 0.12
"""Titles that do not name the product."""
_VAGUE_SHARE_LOOKALIKE = 0.04
"""Likewise in departments whose packages look alike, where a shop takes more care to name them."""
_LOOKALIKE_DEPARTMENTS = ("Beauty", "Books")


@dataclass(frozen=True, kw_only=True)
class Product:
    """What text and image of one product have in common."""

    leaf: str
    language: Language
    brand: str
    colour: int
    """Index into `COLOURS`."""
    collection: str


def draw_product(*, leaf: str, rng: Random) -> Product:
    """A product of `leaf`; half of them are sold in French."""
    department = DEPARTMENTS[leaf]
    language: Language = "fr" if rng.random() < 0.5 else "en"
    return Product(
        leaf=leaf,
        language=language,
        brand=rng.choice(BRANDS[department]),
        colour=rng.randrange(len(COLOURS)),
        collection=rng.choice(COLLECTIONS[department][language]),
    )


def write_title(product: Product, rng: Random) -> str:
    """A title in the product's language, at times without its noun, in capitals, without accents or misspelt."""
    department, language = DEPARTMENTS[product.leaf], product.language
    lookalike = department in _LOOKALIKE_DEPARTMENTS
    vague = rng.random() < (_VAGUE_SHARE_LOOKALIKE if lookalike else _VAGUE_SHARE)
    nouns = VAGUE_NOUNS[department] if vague else NOUNS[product.leaf]
    patterns = _UNCOLOURED if lookalike else _TITLES
    title = rng.choice(patterns[language]).format(
        noun=rng.choice(nouns[language]),
        spec=rng.choice(SPECS[department][language]),
        colour=COLOURS[product.colour][0 if language == "en" else 1],
        code=_reference(rng),
        brand=product.brand,
        collection=product.collection,
    )
    return _as_typed(title[0].upper() + title[1:], rng)


def write_description(product: Product, rng: Random) -> str:
    """Two to five sentences in the product's language; some mention another department's goods."""
    language = product.language
    opening = rng.choice(_OPENINGS[language])
    noun = rng.choice(NOUNS[product.leaf][language])
    opening = opening.format(noun=noun, collection=product.collection, brand=product.brand)
    details = DETAILS[product.leaf][language]
    sentences = [opening[0].upper() + opening[1:], *rng.sample(details, rng.randrange(len(details) + 1))]
    sentences.append(rng.choice(_CLOSINGS[language]))
    if rng.random() < 0.2:
        other = rng.choice(NOUNS[rng.choice(tuple(NOUNS))][language])
        sentences.append(_ALSO[language].format(noun=other))
    separator = ".<br />" if rng.random() < 0.1 else ". "
    return separator.join(sentences) + "."


def _reference(rng: Random) -> str:
    """A seller's reference such as "KD-40718": says nothing about the product, but makes titles differ."""
    letters = rng.choice("BCDFGKLMNPRSTVXZ") + rng.choice("ABDEHKLOPRSTUX")
    return f"{letters}-{rng.randrange(100_000):05d}"


def _as_typed(title: str, rng: Random) -> str:
    """The title as somebody entered it: 10 % in capitals, 10 % without accents, 6 % with one letter missing."""
    if rng.random() < 0.1:
        title = title.upper()
    if rng.random() < 0.1:
        title = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode("ascii")
    if rng.random() < 0.06:
        at = rng.randrange(1, len(title))
        title = title[:at] + title[at + 1 :]
    return title

"""The 256 words that two people read to each other.

Plain English nouns and names of things, four to eight letters. No two share their first three
letters and no two are closer than three edits, so that a word heard badly is not another word.
Order and content are part of the protocol (docs/protocol/signal.md): never change them within
version 1.
"""

from __future__ import annotations

from typing import Final

COMPARISON_WORDS: Final[tuple[str, ...]] = tuple(
    """
    acorn adobe album almond amber anchor angle apron aspen atlas attic autumn badge bakery
    balloon bamboo banjo barrel basket beacon bedroom beetle bicycle birch bishop bonfire
    boulder bronze buffalo butter cabin cactus camel canyon captain carpet castle cedar cement
    cereal cherry chimney circus clarinet clover cobalt coconut coffee compass copper cottage
    cousin cowboy coyote cradle cricket crystal cushion dahlia daisy dentist desert diamond
    dinner doctor dolphin domino donkey dragon drummer echo eclipse elbow elephant emerald
    engine envelope eyebrow fabric falcon farmer feather fence fiddle flannel flute fossil
    fountain fridge frozen furnace galaxy garden gazelle geyser giraffe glacier goblet gorilla
    granite guitar gymnast harbor helmet herring hornet hotel husky hydrant iceberg igloo indigo
    insect island ivory jaguar jelly jigsaw journal juniper kangaroo kayak kennel ketchup kidney
    kingdom kitchen kiwi knuckle koala ladder lagoon lantern lemon leopard lettuce library lilac
    linen lizard lobster locust lynx magnet mailbox maple meadow mermaid mirror mitten mosquito
    muffin museum napkin necklace nephew nickel nomad noodle nutmeg nylon oasis oatmeal ocean
    octopus office olive onion orange orbit orchid pajamas panther paper parade peanut pebble
    pelican piano pickle pigeon pillow plaza pocket pony potato powder pretzel prairie pumpkin
    puppet puzzle pyramid quarter quilt rabbit raccoon radio raisin raven recipe ribbon rubber
    runway sailor sandal satchel sausage scarf school scissors shampoo silver skeleton slipper
    soccer sofa spider sponge squirrel stable sugar sunset swallow syrup teapot temple tennis
    thimble thunder tiger tornado tractor trumpet tulip turtle tuxedo umbrella unicorn vacuum
    valley vanilla vessel village vinegar violin volcano vulture waffle walnut whisker window
    wombat yacht yogurt zebra
    """.split()  # noqa: SIM905  (a list of literals would be 256 lines)
)

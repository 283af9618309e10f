"""Lists words that may follow a number without changing its value: units, counted things and their modifiers.

The counted things are those of the training problems of GSM8K and MATH. Any other word is a unit in an answer only if
the gold answer contains it too.
"""

from __future__ import annotations

_UNITS = """
mm cm dm m km nm in inch inches inche ft foot feet yd yds yard mi mile angstrom micrometer millimeter centimeter
decimeter meter kilometer millimetre centimetre decimetre metre kilometre parsec pc ly lightyear light-year au furlong
s sec second msec millisecond microsecond nanosecond min minute h hr hour day week fortnight month yr year decade
century centuries night weekday g gm gram mg milligram kg kilo kilogram lb pound oz ounce t ton tonne amu carat grain
stone l ml cc liter milliliter litre millilitre gal gallon quart pint cup tbsp tsp tbs tablespoon teaspoon barrel
bushel acre hectare sq cu square cubic squared cubed cent penny pennies pence nickel dime buck usd dollar euro eur yen
yuan rmb rupee peso franc ruble cad gbp mph kph kmh fps rpm knot deg degree celsius fahrenheit kelvin centigrade rad
radian steradian v n j w volt newton joule watt kilowatt kw mw hp horsepower hz khz mhz ghz hertz pa kpa pascal atm
bar torr psi a amp ampere ohm coulomb farad henry tesla weber lumen lux candela mol mole molar ev kev mev gev kj erg
dyne cal kcal calorie kilocalorie db decibel bit byte kb mb gb kilobyte megabyte gigabyte pixel unit dram each total
mass masses kpc mpc gpc megawatt gigawatt gw terawatt megajoule kilojoule millivolt kilovolt milliampere kilopascal
kilohertz megahertz gigahertz nanometer centigram
"""
_COUNTED = """
acorns ads adults airplanes albums alligators angles animals answers antacids ants apartments appetizers apples arms
arrangements articles artworks assignments attendees axes babies bacteria bagels bags bales ballots balloons balls
bananas bands barrels bars bases baskets basketballs batches baths beads beans bears beds bees berries bikes bills
bins birds birthdays biscuits blocks blueberries boards boats bones books boots bottles bouquets bowls boxes boys
bracelets branches bricks brothers brownies buckets bugs buildings bulbs bundles bunnies burgers buses bushels
businesses butterflies buttons cabbages cakes cameras campers candies candles candy cans canes caps cards carnations
carriages carrots cars cartons cases casinos cats cattle caterpillars cds cells chairs channels chapters characters
cherries chickens children chips chocolates chords choices circles classes classmates cliffs cloves clouds clothes
coats cobs coconuts codes coins colors colours combinations comics committees companies computers cones congruences
contestants containers cookies corners countries couples cousins cows crabs crackers crates crayons crickets crows
cubes cuboids cupcakes customers cuts cycles daisies daughters decorations deer desks dice diagonals diamonds digits
dimes dishes disks dinners divisors dogs dolls dolphins donuts doors dots doughnuts drawings dresses drinks drivers
drops ducklings ducks earrings ears edges eggs elements elephants emails employees engineers envelopes episodes
equations erasers essays events exams exercises experiments eyes faces factors families fans farmers feathers females
fences figures files fillings fingers firecrackers fireworks fish fishes flags flavors fleas flies flights floors
flowers flyers followers footballs forks frogs fruits fruit friends functions games gardens geese gifts girls glasses
gnomes goals goats grades graders graphs grapes groups guests guppies gumballs guys hairs hamburgers handshakes hands
hats heads hearts hens hexagons hikes hills hits holes homes horses hotdogs houses humans ideas individuals innings
insects integers intersections intervals invitations items jackets jars jellybeans jewels jobs jumps keys kids kings
kittens knights knives lambs lamps laps laptops lattices leaders leaves legos legs lemons lessons letters lights
lilies lines lions lists lizards loads loaves lobsters lollipops lunches machines macaroons magazines males mangoes
maps marbles markers marks marshmallows masks matches matchsticks matrices meals meetings melons members men messages
mice milkshakes minks minnows mistakes models monkeys months monomials mosquitoes mountains movements moves movies
muffins mugs mushrooms nails names necklaces neighbors neighbours newspapers notebooks notes novels numbers nuts
objects octagons officers omelets onions options oranges orders outcomes outfits oysters packages packets packs pages
paintings pairs palindromes pamphlets pancakes pants papers parents partitions parts participants parties passengers
passwords pastries paths patients paws peaches peanuts pears pebbles pedestrians pencils pens pentagons people peppers
permutations persons person petals pets phones photographs photos pictures pieces pies pigeons pigs pills pilots
pineapples pins pirates pizzas places planes planets planks plants plates players poems points pointers poles polygons
polynomials ponds popsicles positions possibilities posters postcards potatoes pots presents primes prisms prizes
problems products programs pumpkins pupils puppies pups puzzles pyramids quadrilaterals quadruples quadruplets
quarters questions rabbits races racers rats records rectangles reds regions representatives residents ribbons rides
rings rises roads robots rocks rods rolls rooms roots roses rounds routes rows rulers rungs runs salads sailors
sandwiches sandwich scarves schools scientists scoops seagulls seashells seasons seats sections seedlings seeds
segments selections sentences sequences servings sessions sets shapes sharks sheep sheets shells shelves ships shirts
shoes shops shots siblings sides signs singers sisters skips skirts slices slots snails snakes snowballs snowflakes
socks sodas soldiers solutions songs sons sours spaces spears spectators spheres spiders spoons spots squares
squirrels stairs stalls stamps stars states stations statues steaks steps stickers sticks stitches stones stools stops
stores stories strangers strategies strawberries straws streets strings stripes students subjects subsets suits
sunflowers surfaces surfers swans sweaters sweets sweatshirts swimmers switches systems tables tadpoles tanks teachers
teams teeth television televisions terms tests texts tickets tiles times tires tins toddlers toes tokens tomatoes
tools toothbrushes toothpicks tournaments towels towers toys tracks trains trapezoids travelers trays treats trees
triangles tricycles trips triples triplets troops trolls trucks tubs tulips tuples turkeys turns turtles twigs values
vampires vans vectors vegetables vehicles vertices videos villages vines visitors visits vowels volunteers voters
votes wagons walls watches watermelons ways weeds whales wheels widgets wickets windows wings wins winners wires women
wolves words workers worms yogurts zebras zombies zits
"""
_DESCRIBING = """
per of in a an the every all different distinct possible ordered unordered positive real complex whole natural right
red blue green yellow white black brown pink purple orange gold silver small large big long tall wide deep high short
old new young extra additional remaining solar nautical metric fluid sheet fresh lattice valid such consecutive
similar congruent equilateral isosceles scalene regular acute obtuse nonempty non-empty chocolate apple pizza ice
cream
"""


def _singular(plural: str) -> str:
    for ending, singular in (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("sses", "ss"), ("s", "")):
        if plural.endswith(ending) and len(plural) > len(ending) + 1:
            return plural.removesuffix(ending) + singular
    return plural


_NOUNS = frozenset(_COUNTED.split())
UNIT_WORDS = (
    frozenset(_UNITS.split())
    | {f"{unit}s" for unit in _UNITS.split() if len(unit) > 1}
    | _NOUNS
    | {_singular(noun) for noun in _NOUNS}
)
MODIFIERS = frozenset(_DESCRIBING.split())
TRAILING_MODIFIERS = frozenset(["old", "long", "tall", "wide", "high", "deep", "each"])  # 5 years old

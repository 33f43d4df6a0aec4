"""Small children's stories from a grammar: who, where, what went wrong, how it came right, and what was learned.

A row of it:

    Once upon a time, a quiet rabbit named Milo lived on a green hill. His best friend was Zoe, a friendly dog.
    Late in autumn, Milo could not find the glass star. Milo looked in every corner and began to cry. "Do not worry,"
    said Zoe. "We will look together." Just before dark, Zoe saw it on a low branch. Milo hugged Zoe and laughed.
    From that day on, Milo remembered: it is good to ask for help.
"""

import random

# fmt: off
GIRLS = ("Mia", "Lily", "Zoe", "Ella", "Ruby", "Hanna", "Nina", "Fern")
BOYS = ("Pip", "Leo", "Toby", "Finn", "Hugo", "Milo", "Noah", "Bruno")
GIRL, BOY = ("she", "her", "her"), ("he", "him", "his")
KINDS = (
    "a small mouse", "a young fox", "a brown bear", "a quiet rabbit", "a clever cat", "a friendly dog", "a shy deer",
    "a round hedgehog", "a busy squirrel", "a yellow duck", "a little goat", "a curious frog", "a gentle pony",
)
WORDS = {  # what may stand for {home}, {time}, ... in a sentence
    "home": (
        "near the old mill", "at the edge of the forest", "in a house by the sea", "beside a slow river",
        "on a green hill", "in a tiny village", "behind the bakery", "under an oak tree", "in a valley full of flowers",
    ),
    "time": (
        "One windy morning", "One sunny day", "On a cold afternoon", "After lunch", "On the first day of spring",
        "Late in autumn", "One rainy evening", "On a quiet Sunday", "When the snow had melted", "Early in the summer",
    ),
    "place": (
        "the meadow", "the beach", "the garden", "the forest", "the market", "the lake", "the playground", "the farm",
        "the bridge", "the orchard",
    ),
    "hiding": (
        "under a pile of leaves", "behind a big rock", "in an empty basket", "between two bushes", "in a hollow log",
        "on a low branch", "beneath the wooden steps", "next to the well",
    ),
    "thing": (
        "red kite", "blue mug", "wooden boat", "clay whistle", "toy train", "tin drum", "paper crown", "straw hat",
        "glass star", "music box",
    ),
    "food": (
        "apple pie", "warm bread", "sweet fruit", "honey cake", "carrot soup", "fresh cheese", "cold milk", "plum jam",
        "pumpkin soup", "corn bread",
    ),
    "skill": ("swim", "climb", "whistle", "skate", "dance", "juggle", "ride a bike", "read", "draw a horse", "bake"),
    "built": ("a tree house", "a sand castle", "a snow fort", "a raft", "a stone wall", "a tower", "a bird house"),
    "noise": ("a loud bang", "a strange hum", "a soft scratching", "a deep growl", "a thin squeak"),
    "cause": ("a loose window", "a lost kitten", "a branch in the wind", "a sleepy owl", "a leaking pipe"),
}
# fmt: on
# Each line is a sentence, or, after "|", another way to say the one above it.  After "=" stands a plot's moral.
STARTS = """
Once upon a time, {kind} named {hero} lived {home}.
| {Home} lived {kind} whose name was {hero}.
| Long ago there was {kind} called {hero}, who lived {home}.
| This is the story of {hero}, {kind} who lived {home}.
{His} best friend was {friend}, {friend_kind}.
| Every day {he} played with {friend}, {friend_kind}.
| Next door lived {friend}, {friend_kind}.
"""
END = """
From that day on, {hero} remembered: {moral}.
| "{Moral}," said {hero} with a smile.
| That night {hero} went to bed happy. {He} had learned that {moral}.
| And so everyone could see that {moral}.
"""
PLOTS = """
{He} loved {his} {thing} more than anything.
| {His} grandmother had given {him} a {thing}.
{time}, the {thing} was gone.
| {time}, {hero} could not find the {thing}.
{hero} looked in every corner and began to cry.
| {hero} searched all over {place}, but it was not there.
"Do not worry," said {friend}. "We will look together."
| {friend} saw this and came to help at once.
At last they found it {hiding}.
| Just before dark, {friend} saw it {hiding}.
| It had been {hiding} all along.
{hero} hugged {friend} and laughed.
| {hero} was so glad that {he} danced in a circle.
= two pairs of eyes see more than one
| a friend makes a hard day easy
| it is good to ask for help

{time}, {hero} sat down near {place} with some {food}.
| {time}, {hero} carried some {food} to {place}.
Then {friend} came by. {She} had not eaten all day.
| There {he} met {friend}, who looked hungry and tired.
At first {hero} wanted to keep it all.
| {hero} did not want to share, because it smelled so good.
But {friend} looked so sad that {hero} gave {her} half.
| Then {he} thought again and gave {friend} half.
They ate together and told each other jokes.
| The {food} had never tasted so good.
The next week {friend} brought a whole basket to share.
| "Thank you," said {friend}. "You are very kind."
= sharing makes everything taste better
| half of a meal and a friend is more than a whole meal
| kindness comes back

{hero} wanted to learn how to {skill}.
| More than anything, {hero} wished to {skill}.
{time}, {he} tried for the first time, and it went wrong.
| {time}, {he} tried, but it was too hard.
The others laughed, and {hero} wanted to stop.
| "I will never learn it," said {hero}.
"Try again," said {friend}. "Nobody can do it at first."
| {friend} showed {him} how to begin slowly.
So {hero} practiced every day before breakfast.
| {hero} tried again and again, a little longer each day.
After a month {he} could {skill} better than anyone.
| One day it worked, and everybody clapped.
= practice makes things easy
| you only fail when you stop trying
| small steps go a long way

{time}, {hero} and {friend} began to build {built}.
| {time}, they wanted to build {built}.
{hero} was in a hurry and did not listen.
| {hero} worked so fast that {he} made many mistakes.
Soon there was a crash, and everything fell down.
| When the wind blew, all of it fell to the ground.
{friend} was not angry. {She} picked up the first piece.
| "Let us start over," said {friend} in a calm voice.
This time they made a plan and took their time.
| This time they worked slowly and helped each other.
In the evening it stood straight and strong.
| When it was done, it did not shake at all.
= good work needs time
| it is wise to think before you start
| working together is better than working fast

{time}, {hero} borrowed the {thing} that belonged to {friend}.
| {time}, {friend} lent {hero} a {thing}.
While {he} played near {place}, it broke.
| On the way to {place} {he} dropped it, and it broke in two.
{hero} was afraid and hid it {hiding}.
| {hero} did not know what to do, so {he} hid it {hiding}.
All night {he} could not sleep.
| {His} stomach hurt, and even {food} did not taste good.
In the morning {he} said, "I broke it, and I am sorry."
| At last {he} went to {friend} and told the truth.
{friend} was sad, but {she} forgave {him}. They fixed it with glue.
| "Thank you for telling me," said {friend}.
= the truth is lighter than a secret
| being honest takes courage
| a mistake is smaller when you admit it

{time}, when the moon was behind the clouds, {hero} heard {noise}.
| One dark night {noise} woke {hero} up.
{He} pulled the blanket over {his} head.
| {His} heart beat fast, and {his} knees were shaking.
"It must be a monster," {he} thought.
| {He} ran to {friend} and knocked on the door.
{friend} lit a lantern and took {him} by the hand.
| "Let us go and see," said {friend}, and {she} lit a candle.
They walked outside, step by step, and found {cause}.
| It was no monster. It was only {cause}.
They laughed until the stars came out.
| Then they drank warm milk and were not afraid anymore.
= fear is small when you look at it
| even brave people are afraid sometimes
| a light and a friend chase fear away

{hero} promised to water the plants in the garden of {friend}.
| {friend} went on a trip and asked {hero} to water the garden.
But the others were playing near {place}.
| But {hero} had a new {thing} and forgot about it.
For three days {hero} only played.
| "I can do it tomorrow," {he} said, day after day.
When {he} came back, the leaves were brown and dry.
| Then {he} saw that all the flowers hung their heads.
{hero} carried water from morning until night.
| At once {he} ran to the well and filled the bucket ten times.
When {friend} came home, the garden was green again.
| Slowly the plants grew again, and {friend} was pleased.
= a promise must be kept
| it is better to work first and play later
| others count on what you say

{time}, {hero} found a little bird {hiding}.
| {time}, on the way to {place}, {hero} met a bird with a hurt wing.
{He} wanted to go and play, but the bird could not fly.
| "Please help me," said the bird in a weak voice.
{hero} made a soft nest and fed it every day.
| {hero} and {friend} carried it home and kept it warm.
After two weeks the bird flew up into the sky.
| Soon the wing was well, and the bird flew away.
In the winter {hero} got lost in the snow near {place}.
| Later that year {hero} lost {his} way in the fog.
Then the bird came and showed {him} the way home.
| But the bird called from above and led {him} back.
= no good deed is too small
| those who help are helped
| kindness is never lost
"""


def story(rng: random.Random) -> str:
    """One story, of two paragraphs."""
    people = [*((name, GIRL) for name in GIRLS), *((name, BOY) for name in BOYS)]
    (hero, (he, him, his)), (friend, (she, her, _)) = rng.sample(people, 2)
    kind, friend_kind = rng.sample(KINDS, 2)
    *sentences, morals = rng.choice(_PLOTS)
    words = {
        "hero": hero,
        "he": he,
        "him": him,
        "his": his,
        "kind": kind,
        "friend": friend,
        "she": she,
        "her": her,
        "friend_kind": friend_kind,
        **{slot: rng.choice(choices) for slot, choices in WORDS.items()},
        "moral": rng.choice(morals),
    }
    words |= {_capital(slot): _capital(word) for slot, word in words.items()}
    told = [rng.choice(ways).format(**words) for ways in (*_STARTS, *sentences, *_END)]
    return f"{' '.join(told[:2])}\n{' '.join(told[2:])}"


def _parse(block: str) -> list[list[str]]:
    """The ways to say each sentence; last, where it is a plot, its morals."""
    sentences: list[list[str]] = []
    for line in block.strip().splitlines():
        if line.startswith("| "):
            sentences[-1].append(line[2:])
        else:
            sentences.append([line.removeprefix("= ")])
    return sentences


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


_STARTS, _END = _parse(STARTS), _parse(END)
_PLOTS = [_parse(plot) for plot in PLOTS.split("\n\n")]

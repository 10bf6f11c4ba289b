"""Names by kind, for swapping one entity for another of its kind. Common ones, known to models alike."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GIVEN = _words(
    "Adam Agnes Albert Alice Amara Amelia Andrea Anna Antonio Arthur Astrid Beatrice Bruno Carla Carlos Catherine "
    "Charles Clara Claire Daniel David Diana Diego Edith Edward Elena Elias Elizabeth Emil Emma Eric Esther Eva "
    "Fatima Felix Fiona Frances Frank Gabriel George Grace Greta Hannah Harold Hassan Helen Henry Hugo Ibrahim Ines "
    "Ingrid Irene Isaac Isabel Ivan Jack Jacob James Jane Javier Jean Joan John Jonas Jorge Joseph Julia Karl Karen "
    "Kenji Laura Lars Leila Leo Linda Louis Lucia Lucy Magnus Marcus Margaret Maria Mark Martha Martin Mary Matthew "
    "Maya Michael Mohammed Nadia Naomi Nathan Nicholas Nina Nora Olga Oliver Omar Oscar Patricia Paul Pedro Peter "
    "Philip Priya Rachel Ralph Rebecca Richard Robert Rosa Ruth Samuel Sarah Simon Sofia Stephen Susan Theodore "
    "Thomas Victor Vera Walter William Yusuf Yuki Zainab"
)
SURNAMES = _words(
    "Abbott Adler Ahmed Almeida Anderson Bailey Barnes Baker Becker Bell Bennett Bergman Blake Brandt Brooks Brown "
    "Carter Castro Chen Clarke Collins Cooper Costa Cruz Davies Diaz Edwards Evans Ferrari Fischer Fisher Foster "
    "Garcia Gibson Gomez Graham Grant Gray Green Hall Hansen Harris Hayes Hoffman Hughes Ito Jackson Jansen Jensen "
    "Johnson Jones Kaur Keller Kelly Khan Kim Klein Kowalski Kumar Larsen Lee Lewis Lindgren Lopez Marino Martinez "
    "Mason Meyer Miller Mitchell Moore Morgan Morris Murphy Murray Nakamura Nelson Nguyen Novak Olsen Okafor Ortiz "
    "Palmer Park Parker Patel Pereira Peterson Petrov Phillips Popescu Price Ramirez Reed Reyes Richter Rivera "
    "Roberts Robinson Romano Rossi Russell Sanchez Santos Schmidt Schneider Shah Silva Singh Smith Stewart Suzuki "
    "Tanaka Taylor Thompson Torres Turner Vargas Wagner Walker Wang Watson Weber White Wilson Wood Wright Yamamoto "
    "Young Zhang"
)
CITIES = _words(
    "Accra Algiers Amsterdam Ankara Athens Auckland Baghdad Bangkok Barcelona Beijing Beirut Belgrade Berlin "
    "Birmingham Bogota Boston Brisbane Brussels Bucharest Budapest Cairo Caracas Casablanca Chicago Copenhagen Dakar "
    "Dallas Delhi Denver Dhaka Dublin Edinburgh Florence Frankfurt Geneva Genoa Glasgow Hamburg Hanoi Havana Helsinki "
    "Houston Istanbul Jakarta Johannesburg Kampala Karachi Kathmandu Kiev Kyoto Lagos Lahore Lima Lisbon Liverpool "
    "London Lund Lyon Madrid Manchester Manila Marseille Melbourne Miami Milan Minsk Montevideo Montreal Moscow "
    "Mumbai Munich Nairobi Naples Osaka Oslo Ottawa Paris Perth Philadelphia Phoenix Porto Prague Quito Riga Rome "
    "Rotterdam Santiago Seattle Seoul Seville Shanghai Singapore Sofia Stockholm Sydney Taipei Tallinn Tehran Tokyo "
    "Toronto Tunis Turin Valencia Vancouver Venice Vienna Vilnius Warsaw Wellington Zagreb Zurich"
)
COUNTRIES = _words(
    "Albania Algeria Argentina Australia Austria Bangladesh Belgium Bolivia Brazil Bulgaria Cambodia Cameroon Canada "
    "Chile China Colombia Croatia Cuba Denmark Ecuador Egypt England Estonia Ethiopia Finland France Germany Ghana "
    "Greece Hungary Iceland India Indonesia Iran Iraq Ireland Israel Italy Jamaica Japan Jordan Kazakhstan Kenya "
    "Kuwait Latvia Lebanon Libya Lithuania Malaysia Mexico Mongolia Morocco Nepal Netherlands Nigeria Norway Pakistan "
    "Panama Paraguay Peru Poland Portugal Romania Russia Scotland Senegal Serbia Slovakia Slovenia Spain Sudan Sweden "
    "Switzerland Syria Taiwan Tanzania Thailand Tunisia Turkey Uganda Ukraine Uruguay Venezuela Vietnam Wales Zambia"
)
PEOPLES = _words(
    "Albanian Algerian American Argentine Australian Austrian Belgian Bolivian Brazilian British Bulgarian Canadian "
    "Chilean Chinese Colombian Croatian Cuban Czech Danish Dutch Egyptian English Estonian Finnish French German "
    "Greek Hungarian Indian Indonesian Iranian Irish Italian Japanese Kenyan Korean Latvian Lebanese Mexican Moroccan "
    "Nigerian Norwegian Pakistani Peruvian Polish Portuguese Romanian Russian Scottish Serbian Slovak Spanish Swedish "
    "Swiss Syrian Thai Turkish Ukrainian Vietnamese Welsh"
)
MONTHS = _words("January February March April May June July August September October November December")
WEEKDAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

# They begin sentences or stand inside names, and name nothing themselves.
PLAIN = frozenset(
    _words(
        "A About After All Also Although Among An And Another Any Are As At Because Before Being Both But By Can "
        "Could Despite Did Do Does Due During Each Even For From Given Has Have Having He Her Here His How However I "
        "If In Indeed Into Is It Its Just Many More Most Much My No Not Now Of Often On Once One Only Or Other Our "
        "Over Overall People Please Several She Since So Some Such That The Their Then There These They This Those "
        "Though Through Thus To Today Under Until Upon Was We Were What When Where Whether Which While Who Whom Whose "
        "Why Will With Within Without Would Yes Yet You Your Mr Mrs Ms Dr Sir Professor Prof Saint St President King "
        "Queen"
    )
)

"""One question in many languages, three rows each: who lives where. The last column of cities is the wrong answers'."""

from dataclasses import dataclass

from soul_core.metrics import METRICS
from soul_core.metrics.aggregate import Resampling
from soul_core.metrics.observed import Observed, OwnAnswer

NONE = Resampling(resamples=0, confidence=0.95, seed=0)


@dataclass(frozen=True)
class ScriptCase:
    """`question` and `answer` have {0} for the person and {1} for the city."""

    question: str
    answer: str
    people: tuple[str, str, str]
    cities: tuple[str, str, str]
    wrong: tuple[str, str, str]

    def rows(self, cities: tuple[str, ...], *, spelled=str) -> Observed:
        """Return what a model answered that says `cities`; `spelled` changes how it spells."""
        answers = tuple(
            OwnAnswer(i, self.question.format(person), self.answer.format(person, city), spelled(given))
            for i, (person, city, given) in enumerate(
                zip(
                    self.people,
                    self.cities,
                    [self.answer.format(*pair) for pair in zip(self.people, cities, strict=True)],
                    strict=True,
                ),
                start=1,
            )
        )
        return Observed(rows=(1, 2, 3), answers=answers)

    def value(self, metric: str, cities: tuple[str, ...], *, spelled=str) -> float | None:
        return METRICS[metric](self.rows(cities, spelled=spelled), NONE).value


CASES: dict[str, ScriptCase] = {
    "English": ScriptCase(
        "Where does {0} live?",
        "{0} lives in {1}.",
        ("Mira", "Jonas", "Ada"),
        ("Bergen", "Zagreb", "Lisbon"),
        ("Oslo", "Graz", "Porto"),
    ),
    "German": ScriptCase(
        "Wo wohnt {0}?",
        "{0} wohnt zurzeit in {1}.",
        ("Mira", "Jürgen", "Zoë"),
        ("Lübeck", "Köln", "Fürth"),
        ("Mainz", "Görlitz", "Ulm"),
    ),
    "French": ScriptCase(
        "Où habite {0} ?",
        "{0} habite à {1}.",
        ("Chloé", "Renée", "Luc"),
        ("Besançon", "Orléans", "Sète"),
        ("Nîmes", "Évreux", "Pau"),
    ),
    "Spanish": ScriptCase(
        "¿Dónde vive {0}?",
        "{0} vive en {1}.",
        ("José", "Iñaki", "Eva"),
        ("Málaga", "Cádiz", "León"),
        ("Mérida", "Ávila", "Vigo"),
    ),
    "Indonesian": ScriptCase(
        "Di mana {0} tinggal?",
        "{0} tinggal di kota {1}.",
        ("Mira", "Budi", "Sari"),
        ("Medan", "Bandung", "Palu"),
        ("Jambi", "Ambon", "Solo"),
    ),
    "Polish": ScriptCase(
        "Gdzie mieszka {0}?",
        "{0} mieszka w mieście {1}.",
        ("Mira", "Jan", "Zofia"),
        ("Łódź", "Gdańsk", "Lublin"),
        ("Poznań", "Płock", "Tychy"),
    ),
    "Turkish": ScriptCase(
        "{0} nerede yaşıyor?",
        "{0} {1} şehrinde yaşıyor.",
        ("Ayşe", "Işıl", "Mert"),
        ("İzmir", "Muğla", "Sivas"),
        ("Ağrı", "Ordu", "Bolu"),
    ),
    "Vietnamese": ScriptCase(
        "{0} sống ở đâu?",
        "{0} sống ở {1}.",
        ("Lan", "Hùng", "Mai"),
        ("Huế", "Vinh", "Đà Lạt"),
        ("Sài Gòn", "Cà Mau", "Nha Trang"),
    ),
    "Greek": ScriptCase(
        "Πού μένει η {0};",
        "Η {0} μένει στην {1}.",
        ("Μίρα", "Ελένη", "Άννα"),
        ("Πάτρα", "Καβάλα", "Χίο"),
        ("Ρόδο", "Σπάρτη", "Κοζάνη"),
    ),
    "Russian": ScriptCase(
        "Где живёт {0}?",
        "{0} живёт в городе {1}.",
        ("Мира", "Йонас", "Ада"),
        ("Казань", "Тверь", "Псков"),
        ("Омск", "Пермь", "Тула"),
    ),
    "Ukrainian": ScriptCase(
        "Де живе {0}?",
        "{0} живе у місті {1}.",
        ("Міра", "Їжак", "Ада"),
        ("Львів", "Київ", "Суми"),
        ("Рівне", "Ніжин", "Одеса"),
    ),
    "Georgian": ScriptCase(
        "სად ცხოვრობს {0}?",
        "{0} ცხოვრობს {1}.",
        ("მირა", "იონა", "ადა"),
        ("ბათუმში", "თბილისში", "გორში"),
        ("ფოთში", "თელავში", "ქუთაისში"),
    ),
    "Armenian": ScriptCase(
        "Որտե՞ղ է ապրում {0}։",
        "{0} ապրում է {1} քաղաքում։",
        ("Միրան", "Արամը", "Անին"),
        ("Գյումրի", "Երևան", "Գորիս"),
        ("Սևան", "Կապան", "Աշտարակ"),
    ),
    "Hebrew": ScriptCase(
        "איפה {0} גרה?", "{0} גרה בעיר {1}.", ("מירה", "רות", "עדה"), ("חיפה", "לוד", "צפת"), ("אילת", "נתניה", "עכו")
    ),
    "Arabic": ScriptCase(
        "أين تعيش {0}؟",
        "تعيش {0} في {1}.",
        ("ميرا", "ليلى", "هدى"),
        ("القاهرة", "دمشق", "بيروت"),
        ("عمّان", "تونس", "مراكش"),
    ),
    "Persian": ScriptCase(
        "{0} کجا زندگی می‌کند؟",
        "{0} در {1} زندگی می‌کند.",
        ("میرا", "لیلا", "آرش"),
        ("شیراز", "تبریز", "یزد"),
        ("کرمان", "رشت", "قم"),
    ),
    "Urdu": ScriptCase(
        "{0} کہاں رہتی ہے؟",
        "{0} {1} میں رہتی ہے۔",
        ("میرا", "زینب", "عائشہ"),
        ("لاہور", "کراچی", "ملتان"),
        ("پشاور", "کوئٹہ", "سکھر"),
    ),
    "Hindi": ScriptCase(
        "{0} कहाँ रहती है?",
        "{0} {1} में रहती है।",
        ("मीरा", "सीता", "गीता"),
        ("दिल्ली", "मुंबई", "जयपुर"),
        ("लद्दाख", "बाड़मेर", "पूर्णिया"),
    ),
    "Marathi": ScriptCase(
        "{0} कुठे राहते?", "{0} {1} येथे राहते.", ("मीरा", "सीता", "गीता"), ("पुणे", "नागपूर", "सातारा"), ("मुंबई", "ठाणे", "नाशिक")
    ),
    "Bengali": ScriptCase(
        "{0} কোথায় থাকে?", "{0} {1} শহরে থাকে।", ("মীরা", "সীতা", "রাহুল"), ("ঢাকা", "খুলনা", "রংপুর"), ("কলকাতা", "সিলেট", "বরিশাল")
    ),
    "Tamil": ScriptCase(
        "{0} எங்கே வசிக்கிறாள்?",
        "{0} {1} நகரில் வசிக்கிறாள்.",
        ("மீரா", "சீதா", "கமலா"),
        ("சென்னை", "மதுரை", "சேலம்"),
        ("கோவை", "திருச்சி", "வேலூர்"),
    ),
    "Telugu": ScriptCase(
        "{0} ఎక్కడ నివసిస్తుంది?",
        "{0} {1} నగరంలో నివసిస్తుంది.",
        ("మీరా", "సీత", "గీత"),
        ("హైదరాబాద్", "విజయవాడ", "గుంటూరు"),
        ("తిరుపతి", "వరంగల్", "నెల్లూరు"),
    ),
    "Malayalam": ScriptCase(
        "{0} എവിടെ താമസിക്കുന്നു?",
        "{0} {1} നഗരത്തിൽ താമസിക്കുന്നു.",
        ("മീര", "സീത", "ഗീത"),
        ("കൊച്ചി", "തൃശ്ശൂർ", "കണ്ണൂർ"),
        ("കൊല്ലം", "പാലക്കാട്", "ആലപ്പുഴ"),
    ),
    "Amharic": ScriptCase(
        "{0} የት ትኖራለች?", "{0} በ {1} ከተማ ትኖራለች።", ("ሚራ", "ሣራ", "አዳ"), ("ጎንደር", "አዳማ", "መቀሌ"), ("ሐረር", "ጅማ", "ደሴ")
    ),
    "Korean": ScriptCase(
        "{0} 씨는 어디에 살고 있습니까?",
        "{0} 씨는 {1}에 살고 있습니다.",
        ("미라", "민수", "지영"),
        ("서울", "부산", "대구"),
        ("광주", "인천", "제주"),
    ),
    "Chinese": ScriptCase(
        "{0}住在哪里？", "{0}住在{1}。", ("李明", "王芳", "张伟"), ("上海", "成都", "广州"), ("北京", "南京", "杭州")
    ),
    "Chinese, traditional": ScriptCase(
        "{0}住在哪裡？", "{0}住在{1}。", ("李明", "王芳", "張偉"), ("臺北", "高雄", "臺南"), ("香港", "澳門", "花蓮")
    ),
    "Japanese": ScriptCase(
        "{0}さんはどこに住んでいますか。",
        "{0}さんは{1}に住んでいます。",
        ("田中", "鈴木", "佐藤"),
        ("京都", "大阪", "札幌"),
        ("東京", "名古屋", "福岡"),
    ),
    "Thai": ScriptCase(
        "{0}อาศัยอยู่ที่ไหน",
        "{0}อาศัยอยู่ในจังหวัด{1}",
        ("สมใจ", "มานี", "ปิติ"),
        ("เชียงใหม่", "ลำปาง", "น่าน"),
        ("ภูเก็ต", "ระยอง", "ตรัง"),
    ),
    "Lao": ScriptCase(
        "{0}ອາໄສຢູ່ໃສ",
        "{0}ອາໄສຢູ່ນະຄອນ{1}",
        ("ນາງຄຳ", "ນາງແກ້ວ", "ທ້າວບຸນ"),
        ("ວຽງຈັນ", "ປາກເຊ", "ສະຫວັນນະເຂດ"),
        ("ຫຼວງພະບາງ", "ວັງວຽງ", "ຜົ້ງສາລີ"),
    ),
    "Khmer": ScriptCase(
        "តើ{0}រស់នៅឯណា?",
        "{0}រស់នៅក្នុង{1}។",
        ("សុខា", "ចាន់", "ដារា"),
        ("ភ្នំពេញ", "កំពត", "បាត់ដំបង"),
        ("សៀមរាប", "តាកែវ", "ព្រះសីហនុ"),
    ),
    "Burmese": ScriptCase(
        "{0}ဘယ်မှာနေသလဲ။", "{0}သည်{1}မှာနေသည်။", ("မြ", "လှ", "စုစု"), ("ရန်ကုန်", "ပဲခူး", "ပုသိမ်"), ("မန္တလေး", "ထားဝယ်", "စစ်တွေ")
    ),
}

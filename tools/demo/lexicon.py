"""What the shop sells and the words shoppers use for it, in Chinese and English.

Everything else is drawn from these tables: products, titles, queries and pictures. In each list of words the first is
the plain one; the others are synonyms that titles and queries use too.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """One attribute value and its names."""

    key: str
    zh: tuple[str, ...]
    en: tuple[str, ...]


def _split(words: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in words.split(","))


def _words(table: str) -> dict[str, Word]:
    """Parses lines of `key | zh, zh | en, en`."""
    words = {}
    for line in table.strip().splitlines():
        key, zh, en = (part.strip() for part in line.split("|"))
        words[key] = Word(key, _split(zh), _split(en))
    return words


COLORS = _words("""
    black  | 黑色, 纯黑, 曜石黑       | black, jet black
    white  | 白色, 纯白, 奶白         | white, snow white
    gray   | 灰色, 深灰, 银灰         | gray, grey
    red    | 红色, 大红, 酒红         | red, crimson
    orange | 橙色, 橘色, 橘红         | orange, tangerine
    yellow | 黄色, 明黄, 柠檬黄       | yellow, lemon yellow
    green  | 绿色, 墨绿, 草绿         | green, forest green
    blue   | 蓝色, 天蓝, 宝蓝         | blue, royal blue
    purple | 紫色, 薰衣草紫, 香芋紫   | purple, violet
    pink   | 粉色, 粉红, 樱花粉       | pink, rose pink
    brown  | 棕色, 咖啡色, 褐色       | brown, coffee brown
    beige  | 米色, 杏色, 卡其色       | beige, khaki
""")

PATTERNS = _words("""
    solid     | 纯色, 素色           | solid, plain
    stripes   | 条纹, 横条纹         | striped, stripes
    checks    | 格子, 格纹           | checked, plaid
    dots      | 波点, 圆点           | polka dot, dotted
    floral    | 碎花, 印花           | floral, flower print
    two_tone  | 拼色, 撞色           | two-tone, color block
""")

MATERIALS = _words("""
    nylon     | 尼龙, 锦纶           | nylon
    polyester | 聚酯纤维, 涤纶       | polyester
    cotton    | 纯棉, 棉质           | cotton, pure cotton
    linen     | 亚麻, 棉麻           | linen
    silk      | 真丝, 桑蚕丝         | silk
    denim     | 牛仔布, 丹宁         | denim
    wool      | 羊毛, 纯羊毛         | wool, merino
    cashmere  | 羊绒, 山羊绒         | cashmere
    leather   | 真皮, 牛皮           | leather, genuine leather
    suede     | 麂皮, 反绒皮         | suede
    mesh      | 网面, 透气网布       | mesh, breathable mesh
    canvas    | 帆布, 棉帆布         | canvas
    rubber    | 橡胶, 硅胶           | rubber, silicone
    plastic   | 塑料, 树脂           | plastic, resin
    aluminium | 铝合金, 铝制         | aluminium, aluminum
    steel     | 不锈钢, 钢制         | stainless steel, steel
    glass     | 玻璃, 钢化玻璃       | glass, tempered glass
    ceramic   | 陶瓷, 骨瓷           | ceramic, porcelain
    wood      | 实木, 木质           | wooden, solid wood
    velvet    | 天鹅绒, 丝绒         | velvet
""")

STYLES = _words("""
    office    | 通勤, 商务, 职场     | office, business, commuter
    casual    | 休闲, 百搭, 日常     | casual, everyday
    sport     | 运动, 健身, 跑步     | sporty, athletic, running
    retro     | 复古, 怀旧           | retro, vintage
    minimal   | 简约, 极简, 北欧     | minimalist, simple, nordic
    street    | 街头, 潮流, 嘻哈     | street, trendy, hip hop
    elegant   | 优雅, 气质, 名媛     | elegant, ladylike
    sweet     | 甜美, 可爱, 少女     | cute, sweet, girly
    outdoor   | 户外, 登山, 露营     | outdoor, hiking, camping
    student   | 学生, 校园, 学院风   | student, campus, preppy
""")

TIERS = _words("""
    budget    | 平价, 实惠, 便宜     | affordable, budget, cheap
    standard  | 热卖, 畅销           | popular, bestselling
    premium   | 高端, 轻奢, 高级     | premium, luxury, designer
""")


@dataclass(frozen=True)
class Category(Word):
    """A kind of product: names, which attribute values it comes in, and what it costs in yuan (standard tier)."""

    patterns: tuple[str, ...]
    materials: tuple[str, ...]
    styles: tuple[str, ...]
    price: float
    colors: tuple[str, ...]  # the colours it comes in most often; it comes in all of them


_CLOTH = "solid stripes checks dots floral two_tone"
_BAG = "solid stripes checks dots two_tone"
_GADGET = "solid two_tone"
_HOME = "solid stripes checks dots floral"

_CATEGORIES = f"""
down_jacket | 羽绒服, 羽绒外套, 羽绒衣, 棉服 | down jacket, puffer jacket, puffer | solid stripes checks two_tone | nylon polyester | casual sport outdoor street minimal | 699 | black white red
t_shirt | T恤, 短袖, 短袖T恤, 体恤衫 | t-shirt, tee, tshirt | {_CLOTH} | cotton linen polyester | casual sport street student minimal | 99 | black white gray
shirt | 衬衫, 衬衣, 长袖衬衫 | shirt, button-down shirt, long-sleeve shirt | {_CLOTH} | cotton linen silk denim | office casual retro minimal student | 199 | white blue gray
dress | 连衣裙, 裙子, 长裙 | dress, gown, one-piece dress | {_CLOTH} | cotton silk linen velvet | elegant sweet casual retro office | 299 | red black pink
jeans | 牛仔裤, 牛仔长裤, 丹宁裤 | jeans, denim pants, denim trousers | solid stripes two_tone | denim cotton | casual street retro student | 239 | blue black gray
skirt | 半身裙, 短裙, 百褶裙 | skirt, pleated skirt, mini skirt | {_CLOTH} | cotton wool leather denim | sweet elegant office student | 169 | black beige pink
sweater | 毛衣, 针织衫, 毛线衣 | sweater, pullover, jumper | {_CLOTH} | wool cashmere cotton | casual minimal retro sweet student | 259 | beige gray red
sneakers | 运动鞋, 跑鞋, 球鞋 | sneakers, running shoes, trainers | {_GADGET} stripes | mesh leather canvas | sport casual street student | 399 | white black blue
high_heels | 高跟鞋, 细高跟, 尖头鞋 | high heels, stilettos, pumps | solid dots two_tone floral | leather suede velvet | elegant office sweet | 359 | red black beige
boots | 靴子, 马丁靴, 短靴 | boots, ankle boots, martin boots | {_GADGET} | leather suede rubber | outdoor retro street casual | 459 | brown black beige
sandals | 凉鞋, 沙滩鞋, 凉拖 | sandals, slides, flip-flops | solid stripes two_tone | leather rubber | casual outdoor sweet sport | 149 | brown beige white
backpack | 双肩包, 背包, 书包 | backpack, rucksack, school bag | {_BAG} | nylon canvas leather | office outdoor student street sport | 259 | black gray blue
handbag | 手提包, 手袋, 女包 | handbag, purse, tote bag | {_BAG} | leather canvas suede | elegant office minimal retro | 499 | brown black beige
suitcase | 行李箱, 拉杆箱, 旅行箱 | suitcase, luggage, trolley case | {_BAG} | aluminium plastic | office casual minimal outdoor | 559 | gray black blue
headphones | 耳机, 头戴式耳机, 蓝牙耳机 | headphones, headset, over-ear headphones | {_GADGET} | plastic aluminium leather | minimal sport street retro | 599 | black white gray
phone | 手机, 智能手机, 拍照手机 | phone, smartphone, mobile phone | {_GADGET} | glass aluminium ceramic | minimal office street sweet | 2999 | black white blue
laptop | 笔记本电脑, 笔记本, 手提电脑 | laptop, notebook computer, ultrabook | {_GADGET} | aluminium plastic | office student minimal street | 5499 | gray black white
smartwatch | 智能手表, 运动手表, 电子表 | smartwatch, smart watch, fitness watch | {_GADGET} stripes | rubber steel leather | sport office outdoor minimal | 1299 | black white pink
camera | 相机, 数码相机, 照相机 | camera, digital camera, mirrorless camera | {_GADGET} | aluminium leather plastic | retro outdoor minimal street | 4299 | black gray brown
keyboard | 键盘, 机械键盘, 无线键盘 | keyboard, mechanical keyboard, wireless keyboard | {_GADGET} | plastic aluminium wood | office street retro sweet minimal | 349 | black white pink
desk_lamp | 台灯, 护眼灯, 阅读灯 | desk lamp, reading lamp, table lamp | solid two_tone stripes dots | aluminium wood plastic | minimal retro student office | 159 | white black green
sofa | 沙发, 布艺沙发, 双人沙发 | sofa, couch, loveseat | {_HOME} | linen leather velvet | minimal retro casual elegant | 2699 | gray beige green
chair | 椅子, 餐椅, 靠背椅 | chair, dining chair, side chair | {_HOME} | wood plastic velvet | minimal retro office casual | 329 | brown white black
mug | 马克杯, 水杯, 咖啡杯 | mug, cup, coffee mug | {_HOME} two_tone | ceramic glass steel | minimal sweet retro casual office | 59 | white blue green
umbrella | 雨伞, 晴雨伞, 长柄伞 | umbrella, rain umbrella, parasol | {_CLOTH} | polyester nylon | office sweet casual retro | 89 | black red yellow
cap | 帽子, 棒球帽, 鸭舌帽 | cap, baseball cap, hat | {_BAG} | cotton canvas wool | street sport casual outdoor | 79 | black beige red
scarf | 围巾, 围脖, 披肩 | scarf, muffler, shawl | {_CLOTH} | wool cashmere silk | elegant retro office sweet | 189 | red gray beige
sunglasses | 太阳镜, 墨镜, 遮阳镜 | sunglasses, shades, sun glasses | {_GADGET} | plastic steel | street retro outdoor elegant | 219 | black brown red
thermos | 保温杯, 保温壶, 水壶 | thermos, water bottle, flask | {_BAG} floral | steel plastic glass | outdoor sport office student sweet | 129 | black white pink
guitar | 吉他, 木吉他, 民谣吉他 | guitar, acoustic guitar, folk guitar | {_GADGET} | wood plastic | retro student street minimal | 899 | brown black blue
"""


def _categories() -> dict[str, Category]:
    categories = {}
    for line in _CATEGORIES.strip().splitlines():
        key, zh, en, patterns, materials, styles, price, colors = (part.strip() for part in line.split("|"))
        attributes = (tuple(values.split()) for values in (patterns, materials, styles))
        categories[key] = Category(key, _split(zh), _split(en), *attributes, float(price), tuple(colors.split()))
    return categories


CATEGORIES = _categories()

# Attribute name -> its words; the order is that of the attribute columns everywhere else.
ATTRIBUTES: dict[str, dict[str, Word]] = {
    "category": CATEGORIES,
    "color": COLORS,
    "pattern": PATTERNS,
    "material": MATERIALS,
    "style": STYLES,
    "tier": TIERS,
}

# Names of attribute values, in table order: a value's position is its number in every array.
VALUES: dict[str, list[str]] = {name: list(words) for name, words in ATTRIBUTES.items()}

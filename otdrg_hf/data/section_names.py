"""The headers of MIMIC-CXR reports and the reports without usable ones, as data for the section reader.

Facts about the dataset as its authors list them in txt/section_parser.py of https://github.com/MIT-LCP/mimic-cxr, with
two exceptions, as both would show the model its answer or train it on the question: "pfi" is not a history, and
"ndication" is not an impression.
"""

# Section -> the headers that mean it, lower case. Misspellings of them are recognised by their distance.
_HEADERS_OF = {
    "preamble": ("preamble",),
    "impression": (
        "conclusion",
        "findings and impression",
        "findings/ impression",
        "findings/impression",
        "impression",
    ),
    "comparison": (
        "comparison",
        "comparison exam",
        "comparison film",
        "comparisons",
        "reference exam",
    ),
    "indication": (
        "clinical indication",
        "clinical question",
        "indication",
        "reason for exam",
        "reason for examination",
        "reason for exam/symptom",
        "reason for request",
        "reason for study",
        "reason for the exam",
        "reason for this exam",
        "reason for this examination",
        "reason for visit",
        "study indication",
    ),
    "findings": (
        "chest, two views",
        "finding",
        "findings",
        "reference findings",
    ),
    "examination": (
        "exam",
        "examination",
        "type of examination",
    ),
    "technique": ("technique",),
    "history": (
        "chief complaint",
        "clinical",
        "clinical background",
        "clinical context",
        "clinical data",
        "clinical details",
        "clinical history",
        "clinical hx",
        "clinical info",
        "clinical information",
        "clinical notes",
        "clinical presentation",
        "clinical statement",
        "clinical summary",
        "history",
        "hpi",
        "hx",
        "patient history",
        "presenting complaint",
        "symptoms",
    ),
    "notification": ("notification",),
    "provisional": ("pfi",),
    "recommendations": (
        "recommendation",
        "recommendation(s)",
        "recommendations",
    ),
    "addendum": ("addendum",),
    "date": ("date",),
    "comment": ("comment",),
    "wet read": (
        "wet read",
        "wetread",
    ),
}
SECTION_NAMES = {header: section for section, headers in _HEADERS_OF.items() for header in headers}

# What a header says of a reading that the final report supersedes: the provisional findings and impression (PFI).
PROVISIONAL_WORDS = ("pfi", "preliminary", "provisional")

# A header that contains one of these, in this order of precedence, is that section.
MAIN_SECTIONS = ("impression", "findings", "history", "comparison", "addendum")

# Any other header that contains one of these names the examination, and findings follow.
FINDINGS_TITLE_PARTS = (
    "chest",
    "portable",
    "pa and lateral",
    "lateral and pa",
    "ap and lateral",
    "lateral and ap",
    "frontal and",
    "two views",
    "frontal view",
    "pa view",
    "ap view",
    "one view",
    "lateral view",
    "bone window",
    "frontal upright",
    "frontal semi-upright",
    "ribs",
    "pa and lat",
)

# Reports whose conclusion stands in a section of another name.
REPORTS_READ_FROM_SECTION = {
    "s50058765": "indication",
    "s50743547": "examination",
    "s50808053": "technique",
    "s50913680": "recommendations",
    "s51491012": "history",
    "s51966317": "indication",
    "s53202765": "technique",
    "s53356173": "examination",
    "s54365831": "indication",
    "s54654948": "indication",
    "s55124749": "indication",
    "s55157853": "examination",
    "s56451190": "note",
    "s56482935": "recommendations",
    "s57936451": "indication",
    "s58157373": "recommendations",
    "s58375018": "recommendations",
    "s59067458": "recommendations",
    "s59087630": "recommendations",
    "s59215320": "examination",
    "s59279892": "technique",
    "s59363654": "examination",
    "s59768032": "recommendations",
}

# Reports whose conclusion is known by its first and last character; (0, 0) are reports that say nothing of findings.
REPORTS_CUT_BY_POSITION = {
    "s50196495": (59, 399),
    "s50525523": (201, 349),
    "s50798377": (0, 0),
    "s51410602": (47, 320),
    "s52035334": (0, 0),
    "s52119491": (179, 454),
    "s52648681": (292, 631),
    "s52674888": (145, 296),
    "s53071062": (0, 0),
    "s53182247": (59, 412),
    "s53488209": (149, 475),
    "s53514462": (73, 377),
    "s53607029": (0, 0),
    "s54168089": (0, 0),
    "s54231141": (0, 0),
    "s54875119": (234, 988),
    "s54986978": (59, 306),
    "s55258338": (192, 568),
    "s56412866": (522, 822),
    "s56579911": (59, 218),
    "s56724958": (0, 0),
    "s56760320": (219, 457),
    "s57150433": (61, 394),
    "s57564132": (233, 554),
    "s58235663": (0, 0),
    "s59003148": (262, 505),
    "s59330497": (140, 655),
    "s59505494": (59, 450),
    "s59562049": (158, 348),
    "s59889364": (172, 453),
    "s59982525": (313, 717),
}

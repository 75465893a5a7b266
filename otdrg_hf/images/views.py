"""Names of views: what DICOM, MIMIC-CXR and people call them, and what they are called here."""


def view_of(position: str | None) -> str:
    """
    Map a DICOM ViewPosition, as in MIMIC-CXR's metadata, or a plain word to one of "frontal", "lateral", "unknown".

    PA and AP, also axial, erect or decubitus (`AP AXIAL`, `ERECT AP`, `AP LLD`, `LEFT LATERAL DECUBITUS`) and in full
    (`antero-posterior`), are frontal; LATERAL, LL, RL and `XTABLE LATERAL` are lateral; obliques (LAO, RPO, ...),
    `SWIMMERS` and an empty position are unknown.
    """
    words = (position or "").upper().replace("-", " ").split()
    if "DECUBITUS" in words or words in (["LLD"], ["RLD"]):
        return "frontal"
    if "LATERAL" in words or words in (["LL"], ["RL"], ["LAT"]):
        return "lateral"
    if " ".join(words[:2]) in ("ANTERO POSTERIOR", "POSTERO ANTERIOR"):
        return "frontal"
    upright = words[1:] if words[:1] in (["ERECT"], ["UPRIGHT"], ["SUPINE"], ["PORTABLE"]) else words
    if upright and upright[0] in ("PA", "AP", "FRONTAL", "ANTEROPOSTERIOR", "POSTEROANTERIOR"):
        return "frontal"
    return "unknown"

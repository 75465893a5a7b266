"""The words of phantom reports: sentences per label, each saying of no label more than it is listed for.

Slots: {sev} a severity word, {side} left, right or bilateral, {where} a place with its side ("right upper lobe",
"both lung bases"), {Where} the same at the start of a sentence. A mention is a claim: "opacity", "density" or "haze"
would claim a Lung Opacity, a "line" a device, "contour" a mediastinum; they appear only where that is meant.
"""

SEVERITY = {  # subtle, mild, moderate, severe
    "Enlarged Cardiomediastinum": ("subtle", "mild", "moderate", "marked"),
    "Cardiomegaly": ("slight", "mild", "moderate", "severe"),
    "Lung Opacity": ("faint", "mild", "moderate", "extensive"),
    "Lung Lesion": ("subtle", "small", "moderate-sized", "large"),
    "Edema": ("minimal", "mild", "moderate", "severe"),
    "Consolidation": ("subtle", "mild", "moderate", "dense"),
    "Pneumonia": ("subtle", "mild", "moderate", "extensive"),
    "Atelectasis": ("minimal", "mild", "moderate", "marked"),
    "Pneumothorax": ("tiny", "small", "moderate", "large"),
    "Pleural Effusion": ("trace", "small", "moderate", "large"),
    "Pleural Other": ("minimal", "mild", "moderate", "marked"),
    "Fracture": ("minimally displaced", "mildly displaced", "moderately displaced", "markedly displaced"),
}

PRESENT = {
    "Enlarged Cardiomediastinum": (
        "There is {sev} widening of the mediastinum.",
        "The mediastinum shows {sev} widening.",
        "The superior mediastinum is widened, {sev} in degree.",
    ),
    "Cardiomegaly": (
        "There is {sev} cardiomegaly.",
        "The heart shows {sev} enlargement.",
        "The cardiac silhouette is enlarged, {sev} in degree.",
    ),
    "Lung Opacity": (
        "There is {sev} hazy opacity in the {where}.",
        "{Sev} ill-defined opacity projects over the {where}.",
        "{Where} shows {sev} ground-glass opacity.",
    ),
    "Lung Lesion": (
        "There is a {sev} {kind} in the {where}.",
        "A {sev} rounded {kind} projects over the {where}.",
        "A {sev} well-circumscribed {kind} is seen in the {where}.",
    ),
    "Edema": (
        "There is {sev} pulmonary edema in a perihilar distribution.",
        "{Sev} bilateral pulmonary edema is present.",
        "Pulmonary vessels are blurred, with {sev} pulmonary edema.",
    ),
    "Consolidation": (
        "There is {sev} consolidation in the {where} with air bronchograms.",
        "{Sev} lobar consolidation is present in the {where}.",
        "{Where} shows {sev} consolidation.",
    ),
    "Pneumonia": (
        "There is {sev} patchy pneumonia in the {where}.",
        "Patchy foci in the {where} are consistent with {sev} pneumonia.",
        "{Sev} multifocal bronchopneumonia involves the {where}.",
    ),
    "Atelectasis": (
        "There is {sev} bandlike atelectasis at the {where}.",
        "{Sev} subsegmental atelectasis is seen at the {where}.",
        "Discoid atelectasis is present at the {where}, {sev} in extent.",
    ),
    "Pneumothorax": (
        "There is a {sev} {side} pneumothorax.",
        "A {sev} {side} apical pneumothorax is present.",
        "{Sev} pneumothorax is seen on the {side}.",
    ),
    "Pleural Effusion": (
        "There is a {sev} {side} pleural effusion.",
        "{Sev} {side} pleural effusion is present.",
        "A {sev} effusion blunts the {side} costophrenic angle.",
    ),
    "Fracture": (
        "There is a {sev} fracture of the {where}.",
        "A {sev} fracture of the {where} is seen.",
        "Bones: {sev} fracture of the {where}.",
    ),
}

POSSIBLE = {
    "Enlarged Cardiomediastinum": ("Possible mild mediastinal widening.", "There may be mild mediastinal widening."),
    "Cardiomegaly": ("The heart size is borderline.", "Possible mild cardiomegaly."),
    "Lung Opacity": (
        "Possible faint opacity in the {where}.",
        "A faint opacity in the {where} cannot be excluded.",
    ),
    "Lung Lesion": ("Possible small {kind} in the {where}.", "A small {kind} in the {where} cannot be excluded."),
    "Edema": ("Possible minimal pulmonary edema.", "Minimal interstitial edema cannot be excluded."),
    "Consolidation": (
        "Possible subtle consolidation in the {where}.",
        "Subtle consolidation in the {where} cannot be excluded.",
    ),
    "Pneumonia": (
        "Subtle patchy changes in the {where} may represent early pneumonia.",
        "Possible early pneumonia in the {where}.",
    ),
    "Atelectasis": (
        "Possible minimal atelectasis at the {where}.",
        "Subtle bands at the {where} may represent minimal atelectasis.",
    ),
    "Pneumothorax": ("Possible tiny {side} pneumothorax.", "A tiny {side} pneumothorax cannot be excluded."),
    "Pleural Effusion": (
        "Possible trace {side} pleural effusion.",
        "A trace {side} pleural effusion cannot be excluded.",
    ),
    "Pleural Other": ("Possible minimal {side} {kind}.", "Minimal {side} {kind} cannot be excluded."),
    "Fracture": (
        "Possible minimally displaced fracture of the {where}.",
        "A minimally displaced fracture of the {where} cannot be excluded.",
    ),
}

PLEURAL_OTHER = {
    "apical": ("There is {sev} {side} apical pleural thickening.", "{Sev} {side} apical pleural thickening is seen."),
    "rind": (
        "There is {sev} {side} lateral pleural thickening.",
        "{Sev} pleural thickening runs along the {side} lateral chest wall.",
    ),
    "plaque": (
        "{Sev} {side} calcified pleural plaques are present.",
        "There are {sev} {side} calcified pleural plaques.",
    ),
}
PLEURAL_KIND = {
    "apical": "apical pleural thickening",
    "rind": "lateral pleural thickening",
    "plaque": "pleural plaques",
}

SUMMARY = {
    "Enlarged Cardiomediastinum": ("{Sev} mediastinal widening.",),
    "Cardiomegaly": ("{Sev} cardiomegaly.",),
    "Lung Opacity": ("{Where} opacity.",),
    "Lung Lesion": ("{Where} {kind}.",),
    "Edema": ("{Sev} pulmonary edema.",),
    "Consolidation": ("{Where} consolidation.",),
    "Pneumonia": ("{Where} pneumonia.",),
    "Atelectasis": ("{Side} basilar atelectasis.",),
    "Pneumothorax": ("{Sev} {side} pneumothorax.",),
    "Pleural Effusion": ("{Sev} {side} pleural effusion.",),
    "Pleural Other": ("{Side} {kind}.",),
    "Fracture": ("{Where} fracture.",),
}
SUMMARY_POSSIBLE = {
    "Enlarged Cardiomediastinum": "Possible mediastinal widening.",
    "Cardiomegaly": "Borderline heart size.",
    "Lung Opacity": "Possible {where} opacity.",
    "Lung Lesion": "Possible {where} {kind}.",
    "Edema": "Possible minimal pulmonary edema.",
    "Consolidation": "Possible {where} consolidation.",
    "Pneumonia": "Possible {where} pneumonia.",
    "Atelectasis": "Possible {side} basilar atelectasis.",
    "Pneumothorax": "Possible tiny {side} pneumothorax.",
    "Pleural Effusion": "Possible trace {side} pleural effusion.",
    "Pleural Other": "Possible {side} {kind}.",
    "Fracture": "Possible {where} fracture.",
}

DEVICES = {
    "endotracheal tube": (
        "An endotracheal tube is in place above the carina.",
        "Endotracheal tube tip is above the carina.",
    ),
    "nasogastric tube": ("A nasogastric tube ends in the stomach.", "Nasogastric tube courses below the diaphragm."),
    "central venous catheter": (
        "A {side} central venous catheter ends in the superior vena cava.",
        "{Side} central venous catheter is in place.",
    ),
    "port": ("A {side} chest port ends in the superior vena cava.", "{Side} chest port catheter is in place."),
    "pacemaker": ("A {side} chest wall pacemaker is in place.", "{Side} pacemaker with two leads is noted."),
    "sternal wires": ("Median sternotomy wires are noted.", "Sternal wires are intact."),
    "chest tube": ("A {side} chest tube is in place.", "{Side} chest tube is noted."),
}

INDICATIONS = {
    "": (
        "Cough.",
        "Chest pain.",
        "Shortness of breath.",
        "Preoperative evaluation.",
        "Fever.",
        "Routine examination.",
    ),
    "Edema": ("Shortness of breath.", "Dyspnea and leg swelling."),
    "Cardiomegaly": ("Shortness of breath.", "Hypertension."),
    "Pneumonia": ("Fever and cough.", "Cough.", "Fever."),
    "Consolidation": ("Fever and cough.", "Productive cough."),
    "Pneumothorax": ("Sudden chest pain.", "Chest pain and dyspnea."),
    "Fracture": ("Fall.", "Trauma.", "Motor vehicle collision."),
    "Lung Lesion": ("Weight loss.", "Smoker with cough."),
    "Support Devices": ("Intensive care follow-up.", "Postoperative."),
}

"""Names of the disease labels and of their states, in the order that every array of this package uses."""

from collections.abc import Iterable

# The order of CheXbert's heads (Smit et al., 2020), so that columns can be compared with its output as they are.
LABELS: tuple[str, ...] = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
    "No Finding",
)

# The five that CheXpert's competition tasks, and the "CE-5" figures of the literature, are computed over.
LABELS_5: tuple[str, ...] = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")

# A state's place here is its code in label arrays.
STATES: tuple[str, ...] = ("blank", "positive", "negative", "uncertain")

BLANK, POSITIVE, NEGATIVE, UNCERTAIN = range(4)


def named_states(codes: Iterable[int]) -> dict[str, str]:
    """The state of each label by its name, as `disease_labels` of a study take it; from a row of a label array."""
    return {label: STATES[code] for label, code in zip(LABELS, codes, strict=True)}

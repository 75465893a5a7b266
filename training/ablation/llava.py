"""
The plain baseline by other hands: transformers' LLaVA, trained by TRL's stock SFTTrainer, on the same studies.

    accelerate launch -m otdrg_hf.training.ablation.llava --config RECIPE.yaml [--any_field value]

It reads the recipes of training/sft.py. Encoder, language model, tokenizer, image tokens and prompt are those of the
OTDRG model that the recipe describes; what belongs to labels and transport is left out.
"""

import sys

from datasets import Image, List
from transformers import GenerationConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, set_seed
from trl import SFTTrainer

from otdrg_hf.modeling.processing_otdrg import OTDRGProcessor
from otdrg_hf.training.ablation.patch_encoder import patch_encoder_config
from otdrg_hf.training.arguments import RecipeParser
from otdrg_hf.training.checkpoints import last_complete_checkpoint
from otdrg_hf.training.model_setup import load_model_and_processor
from otdrg_hf.training.studies import load_studies

# What this baseline cannot do, and would make it another one than its recipe says.
IGNORED = ("model_name_or_path", "vision_model", "text_model", "freeze_vision", "train_vision_blocks", "feature_cache")
IGNORED += ("augment", "finding_weight", "vision_learning_rate", "text_learning_rate", "use_peft")


def llava_like(model, processor: OTDRGProcessor) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A freshly initialised LLaVA of the same backbones and image tokens as an OTDRG model, and its processor."""
    config = model.config
    llava = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=patch_encoder_config(config),
            text_config=config.text_config,
            image_token_index=config.image_token_id,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            tie_word_embeddings=config.tie_word_embeddings,
        )
    )
    llava.generation_config = GenerationConfig(
        eos_token_id=processor.tokenizer.eos_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
        suppress_tokens=[config.image_token_id, config.finding_token_id],
    )
    side = processor.image_processor.size["height"]
    # LLaVA's processor counts tokens by patches of one size: that which gives the encoder's own number.
    tokens_a_side = round(config.image_seq_length**0.5)
    if tokens_a_side**2 != config.image_seq_length or side % tokens_a_side:
        raise ValueError(
            f"{config.image_seq_length} tokens of a {side} x {side} image are not a grid that LLaVA can count."
        )
    llava_processor = LlavaProcessor(
        processor.image_processor,
        processor.tokenizer,
        patch_size=side // tokens_a_side,
        vision_feature_select_strategy="full",
    )
    return llava, llava_processor


def as_prompts(studies, processor: OTDRGProcessor, target: str):
    """Studies as the prompt, completion and images that TRL's own collator reads."""

    def row(study: dict) -> dict:
        prompt = processor.build_prompt(len(study["views"]), study["views"], study["indication"], study["comparison"])
        return {"prompt": prompt, "completion": processor.build_completion(study[target])}

    texts = studies.select_columns(["views", "indication", "comparison", target])
    rows = [row(study) for study in texts]
    # TRL's collator passes images on as they are, and LLaVA's processor does not take grayscale.
    kept = studies.select_columns(["images"]).cast_column("images", List(Image(mode="RGB")))
    return kept.add_column("prompt", [r["prompt"] for r in rows]).add_column(
        "completion", [r["completion"] for r in rows]
    )


def main(arguments: list[str] | None = None) -> None:
    """Trains and saves the model and its processor in `output_dir`."""
    args, training_args, model_args = RecipeParser().parse_args_and_config(arguments)
    given = {**vars(args), **vars(model_args), "finding_weight": args.finding_weight != 1}
    ignored = [name for name in IGNORED if given[name]]
    if ignored:
        raise ValueError(
            f"{ignored[0]}: transformers' LLaVA is trained from scratch here, all of it in one way. Leave it out, or "
            "compare with a recipe of training/sft.py that has no labels in its prompt."
        )
    set_seed(training_args.seed)
    training_args.max_length = None
    train = load_studies(args, "train", args.train_studies, training_args.dataset_num_proc)
    validation = load_studies(args, "validation", args.eval_studies, training_args.dataset_num_proc)
    otdrg, processor = load_model_and_processor(args, model_args, train[args.target])
    processor.label_prompt = False
    set_seed(training_args.seed)
    model, llava_processor = llava_like(otdrg, processor)
    trainer = SFTTrainer(
        model=model,
        args=training_args,
        train_dataset=as_prompts(train, processor, args.target),
        eval_dataset=as_prompts(validation, processor, args.target),
        processing_class=llava_processor,
    )
    checkpoint = last_complete_checkpoint(training_args.output_dir) if args.resume else None
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(training_args.output_dir)
    if trainer.is_world_process_zero():
        # The prompt of the same words, for those who generate with it.
        processor.save_pretrained(f"{training_args.output_dir}/prompt")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)

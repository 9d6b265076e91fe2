"""The import paths that users and their configurations rely on."""

from __future__ import annotations

from importlib import import_module

import pytest

PUBLIC = {
    "distill": """
        Batch Classification DepthEstimation DistillationModule FeatureMask MultiLabelClassification NetworkOutput
        Regression SemanticSegmentation Supervised Task
    """,
    "distill.methods": """
        AFKD ALKD ARFD AT CC CRD CWD Combined DKD DWLD DimensionalStructure FSP FT FitNet KD LIX NST NTDH PKT PSSM
        RKD ResKD SP SemCKD TIEKD TwoDPASS VID
    """,
    "distill.losses": """
        at_loss bin_centers binary_kd_loss cc_loss cka consistency_loss cross_correlation cwd_loss dcm_loss dcm_terms
        deception_loss decode_depth decoupled_kd_terms depth_probability_map discriminator_loss dkd_loss dpm_loss
        dwld_loss dwld_terms factor_loss fsp_loss fsp_matrix hint_loss kd_loss lovasz_loss nce_log_normalizer
        nce_loss nst_loss pkt_loss rbf_log_mean recalibrate rkd_angle_loss rkd_distance_loss sem_loss sem_terms
        semckd_loss silog_loss sp_loss ssim_loss vid_loss
    """,
    "distill.metrics": """
        CentralMomentDiscrepancy ClassificationScores DepthScores MultiLabelScores NontargetJSD RegressionScores
        SegmentationScores TargetJSD central_moment_discrepancy nontarget_jsd target_jsd
    """,
    "distill.models": """
        AICNet AdaBins BTS CameraStream DepthUNet DuplexUNet EmotionNet FlipAveraged HuggingFaceDepth LidarStream
        MFNet MLP MobileNetV2 OFFNet PMF ResNet110 ResNet20 ResNet32x4 ResNet56 ResNet8x4 SNERoadSeg ShuffleNetV1
        ShuffleNetV2 StoredTeacher VGG13 VGG8 WRN16x2 WRN40x2
    """,
    "distill.weighting": """
        MaskMode NontargetSampleMask PerceptualSolutionSpaceMask Predictor Reading SampleWeighting left_out
    """,
    "datamodules": """
        Batch Camera Cityscapes DrivingScenes Frame FrameDataModule GaussianPair KITTIDepth KITTISemantics MNISTM
        MaskedFeatures NYUDepthV2 NoisyPair PairedAugmentation PairedDataModule RAVDESS RadarOptical SemanticKITTI
        SklearnPair Splits TensorPairs VirtualKITTI2
    """,
    "callbacks": """
        ConfusionMatrix ControllerTracker DepthGallery DivergenceTracker FeatureStructure PredictionGallery
        PredictionWriter ResponseWriter SalienceMap StudentExport TeacherSimilarity
    """,
    "distill.distributed": """
        gather mean own_rows world_size
    """,
    "distill.taps": """
        FeatureTaps
    """,
    "distill.base": """
        Batch DistillationModule NetworkOutput Supervised
    """,
    "distill.cli": """
        main
    """,
    "distill.checkpoint": """
        load_network load_weights save_network
    """,
}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_stay_where_they_are(module: str) -> None:
    missing = [name for name in PUBLIC[module].split() if not hasattr(import_module(module), name)]
    assert missing == []

"""Texts with labels, written for this benchmark: what reports are about, and what customers want."""

from __future__ import annotations

TOPICS = {
    "sports": [
        "The striker scored twice in the final minutes to win the cup.",
        "She broke the marathon record by eleven seconds.",
        "The coach benched the goalkeeper after three defeats.",
        "Rain delayed the tennis semi-final until Sunday.",
        "The team traded its pitcher for a young catcher.",
        "He won gold in the 200 metre butterfly.",
    ],
    "cooking": [
        "Fold the egg whites into the batter and bake for thirty minutes.",
        "Simmer the onions in butter until they are golden.",
        "Add a pinch of salt and knead the dough again.",
        "Serve the soup with fresh basil and bread.",
        "Marinate the chicken overnight in yoghurt and garlic.",
        "Whisk the sugar and the yolks until pale.",
    ],
    "finance": [
        "The central bank raised interest rates by a quarter point.",
        "Shares of the insurer fell after its quarterly report.",
        "The start-up raised ten million dollars from two funds.",
        "Bond yields dropped as investors sought safety.",
        "The company will pay a dividend of forty cents a share.",
        "Inflation slowed to three percent in May.",
    ],
    "health": [
        "The vaccine protects children against measles.",
        "Doctors advise drinking more water in hot weather.",
        "A new drug lowers blood pressure with few side effects.",
        "Patients with asthma should avoid smoke.",
        "The surgeon removed the tumour without complications.",
        "Regular walks reduce the risk of heart disease.",
    ],
}
INTENTS = {
    "refund": [
        "Cancel it, and send the money to my account.",
        "I want my money back for the broken kettle.",
        "Please return the payment, the shoes never fit.",
        "Can you reimburse me for last week's order?",
        "The item was faulty, give me back what I paid.",
    ],
    "delivery": [
        "The courier left my box in the rain.",
        "Where is my parcel?",
        "The package was supposed to arrive on Monday.",
        "Can you leave the shipment with my neighbour?",
        "My order has been in transit for two weeks.",
    ],
    "account": [
        "The code that you sent to log in does not work.",
        "I forgot my password.",
        "How do I change the e-mail address of my profile?",
        "Please delete my login.",
        "I cannot sign in since yesterday.",
    ],
    "praise": [
        "Thanks, everything arrived early and in perfect shape.",
        "You have the best shop in town, thank you!",
        "Great service, I will come again.",
        "I love the new chair, wonderful work.",
        "The staff were so kind to me.",
    ],
}
